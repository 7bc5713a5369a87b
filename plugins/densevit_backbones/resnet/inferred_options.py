"""Infers the options of a ResNet from its tensors."""

from typing import Any

from densevit.errors import WeightsError
from densevit.interfaces import StateDict
from densevit.layouts import count
from densevit_backbones.resnet.variants import BLOCKS, BOTTLENECKS_FROM


def describe(tensors: StateDict) -> dict[str, Any]:
    """The config section of a ResNet, from tensors with densevit's keys, which do not show dilation and frozen
    norms."""
    blocks = tuple(count(tensors, rf"layer{i}\.(\d+)\.conv1\.weight") for i in range(1, 5))
    bottleneck = "layer1.0.conv3.weight" in tensors
    depth = next((d for d, counts in BLOCKS.items() if (counts, d >= BOTTLENECKS_FROM) == (blocks, bottleneck)), None)
    if depth is None:
        block_type = "bottlenecks" if bottleneck else "basic blocks"
        depths = ", ".join(f"{d} {counts}" for d, counts in BLOCKS.items())
        raise WeightsError(f"A ResNet of {blocks} {block_type} is not a known depth: {depths}.")
    section: dict[str, Any] = {"name": "resnet", "depth": depth}
    if bottleneck:
        width, per_group = tensors["layer1.0.conv2.weight"].shape[:2]
        section |= {} if width == per_group == 64 else {"groups": width // per_group, "width_per_group": per_group}
    if "conv1.0.weight" in tensors:
        section["variant"] = "vd" if not bottleneck and "layer1.0.downsample.1.weight" in tensors else "d"
    return {"backbone": section | ({} if "bn1.running_mean" in tensors else {"norm": "group"})}
