"""Infers a backbone's options from the names and shapes of its tensors, for the config of a checkpoint."""

import math
import re
from collections.abc import Callable, Iterable
from typing import Any

from densevit.errors import WeightsError
from densevit.weights.key_mapping import Layout, Line, Rearrangement, State, translate

Section = dict[str, Any]

STANDARDIZATION = "weight_standardization"  # a hybrid's option that tensors do not determine; default "variance"

VIT: dict[int, tuple[str, int]] = {  # width: variant, depth
    128: ("nano", 6),
    192: ("tiny", 12),
    384: ("small", 12),
    768: ("base", 12),
    1024: ("large", 24),
    1280: ("huge", 32),
    1536: ("giant", 40),
}
SWIN: dict[tuple[int, tuple[int, ...]], str] = {  # width and blocks a stage
    (32, (1, 1, 3, 1)): "nano",
    (96, (2, 2, 6, 2)): "tiny",
    (96, (2, 2, 18, 2)): "small",
    (128, (2, 2, 18, 2)): "base",
    (192, (2, 2, 18, 2)): "large",
}
MVIT: dict[tuple[int, int, tuple[int, ...]], str] = {  # version, width and blocks a stage
    (1, 32, (1, 1, 3, 1)): "nano",
    (1, 96, (1, 2, 11, 2)): "base",
    (1, 112, (2, 3, 16, 3)): "large",
    (2, 32, (1, 1, 3, 1)): "nano",
    (2, 96, (1, 2, 5, 2)): "tiny",
    (2, 96, (1, 2, 11, 2)): "small",
    (2, 96, (2, 3, 16, 3)): "base",
    (2, 144, (2, 6, 36, 4)): "large",
}
RESNET: dict[tuple[tuple[int, ...], bool], int] = {  # blocks a stage and whether they are bottlenecks
    ((2, 2, 2, 2), False): 18,
    ((3, 4, 6, 3), False): 34,
    ((3, 4, 6, 3), True): 50,
    ((3, 4, 23, 3), True): 101,
    ((3, 8, 36, 3), True): 152,
}


def described(
    of_ours: Callable[[State], Section], lines: tuple[Line, ...], rearrange: Rearrangement | None = None
) -> Callable[[State], dict[str, Section]]:
    """A layout's `describe`, from a function of the tensors with our keys.

    Raises WeightsError if the tensors are not of a known variant.
    """
    names = Layout("", "backbone", (), lines, lambda state: {}, rearrange=rearrange)

    def describe(state: State) -> dict[str, Section]:
        try:
            return {"backbone": of_ours(translate(state, names).tensors)}
        except (KeyError, IndexError) as error:
            raise WeightsError(f"The checkpoint is incomplete: no tensor for {error}.") from error

    return describe


def vit(tensors: State) -> Section:
    """The section of a ViT. Tensors do not determine the number of attention heads: the variant's is assumed."""
    width, depth = len(tensors["blocks.0.norm1.weight"]), _count(tensors, r"blocks\.(\d+)\.norm1\.weight")
    variant, full_depth = VIT.get(width, ("", 0))
    if depth > full_depth:
        raise WeightsError(f"A ViT of {width} channels and {depth} blocks is not a known variant: {_listed(VIT)}.")
    hybrid = "stem.conv.weight" in tensors
    if hybrid and [_count(tensors, rf"stem\.stages\.{i}\.(\d+)\.conv1\.weight") for i in range(4)] != [3, 4, 9, 0]:
        raise WeightsError("Of hybrids, only those on the first three stages of a ResNet-50 are supported.")
    patch = 16 if hybrid else tensors["stem.projection.weight"].shape[-1]
    options: Section = {"name": "vit", "variant": variant, "patch_size": patch}
    if hybrid:
        options["stem"] = "resnet"
    if "position_table" in tensors:
        options["image_size"] = patch * len(tensors["position_table"])
    elif "blocks.0.position_bias.table" in tensors:
        side = (math.isqrt(len(tensors["blocks.0.position_bias.table"])) + 1) // 2
        options |= {"positions": "relative", "image_size": patch * side}
    else:
        options["positions"] = "none"
    options |= {} if "class_token" in tensors else {"class_token": False}
    options |= {"distillation_token": True} if "distillation_token" in tensors else {}
    options |= {"registers": len(tensors["register_tokens"])} if "register_tokens" in tensors else {}
    options |= {"layer_scale": 1e-5} if "blocks.0.scale1.scale" in tensors else {}
    options |= {"qk_norm": True} if "blocks.0.attention.query_norm.weight" in tensors else {}
    wide, narrow = tensors["blocks.0.mlp.expand.weight"], tensors["blocks.0.mlp.contract.weight"]
    options |= {"swiglu": True} if len(wide) == 2 * narrow.shape[1] else {}
    if depth < full_depth:
        quarters = sorted({-(-depth * i // 4) for i in (1, 2, 3, 4)})
        options["features"] = tuple(quarters[-2:] if hybrid else quarters)
    return options | ({} if "norm.weight" in tensors else {"feature_norm": False})


def swin(tensors: State) -> Section:
    """The section of a Swin. For version 2, tensors do not determine the window size: the default is assumed."""
    width = len(tensors["patch_norm.weight"])
    blocks = tuple(_count(tensors, rf"stages\.{i}\.(\d+)\.norm1\.weight") for i in range(4))
    if (width, blocks) not in SWIN:
        raise WeightsError(f"A Swin of {width} channels and {blocks} blocks is not a known variant: {_listed(SWIN)}.")
    section: Section = {"name": "swin", "variant": SWIN[width, blocks], "version": 2}
    if "stages.0.0.attention.logit_scale" not in tensors:
        tables = [tensors[f"stages.{i}.1.attention.relative_position_bias_table"] for i in range(1, 4)]
        tables.insert(0, tensors["stages.0.0.attention.relative_position_bias_table"])
        section |= {"version": 1, "window_size": same((math.isqrt(len(table)) + 1) // 2 for table in tables)}
    return section


def mvit(tensors: State) -> Section:
    """The section of an MViT."""
    version = 1 if "positions.cells" in tensors else 2
    width = tensors["patch_embed.weight"].shape[0]
    blocks = tuple(_count(tensors, rf"stages\.{i}\.(\d+)\.norm1\.weight") for i in range(4))
    if (version, width, blocks) not in MVIT:
        raise WeightsError(
            f"An MViT of version {version}, {width} channels and {blocks} blocks is not a known variant: "
            f"{_listed(MVIT)}."
        )
    if version == 1:
        side = tensors["positions.cells"].shape[-1]
    else:
        side = (len(tensors["stages.0.0.attention.relative_positions.rows"]) + 1) // 2
    section = {"name": "mvit", "variant": MVIT[version, width, blocks], "version": version, "image_size": 4 * side}
    return section | {"class_token": "class_token" in tensors}


def resnet(tensors: State) -> Section:
    """The section of a ResNet. Tensors do not determine dilation or frozen norms."""
    blocks = tuple(_count(tensors, rf"layer{i}\.(\d+)\.conv1\.weight") for i in range(1, 5))
    bottleneck = "layer1.0.conv3.weight" in tensors
    if (blocks, bottleneck) not in RESNET:
        kind = "bottlenecks" if bottleneck else "basic blocks"
        raise WeightsError(f"A ResNet of {blocks} {kind} is not a known depth: {_listed(RESNET)}.")
    section: Section = {"name": "resnet", "depth": RESNET[blocks, bottleneck]}
    if bottleneck:
        width, per_group = tensors["layer1.0.conv2.weight"].shape[:2]
        section |= {} if width == per_group == 64 else {"groups": width // per_group, "width_per_group": per_group}
    section |= {"variant": "d"} if "conv1.0.weight" in tensors else {}
    return section | ({} if "bn1.running_mean" in tensors else {"norm": "group"})


def same(values: Iterable[int]) -> int | tuple[int, ...]:
    """One number if all are equal, else a tuple of all."""
    found = tuple(values)
    return found[0] if len(set(found)) == 1 else found


def _count(tensors: State, pattern: str) -> int:
    return len({match[1] for key in tensors if (match := re.fullmatch(pattern, key))})


def _listed(table: dict[Any, Any]) -> str:
    return ", ".join(f"{found[0] if isinstance(found, tuple) else found} {key}" for key, found in table.items())
