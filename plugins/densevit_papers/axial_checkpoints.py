"""Axial-ResNet of csrhddlam/axial-deeplab, trained for classification."""

from typing import Any

from densevit.errors import WeightsError
from densevit.interfaces import Change, CheckpointLayout, Licences, Line, Publishing, SpecialTensors, StateDict
from densevit.layouts import count
from densevit_papers.attention_resnet import BLOCKS

_PROJECTION = Change(lambda x: x[..., None], lambda x: x[..., 0])  # a Conv1d in checkpoints, a 1x1 Conv2d here
_AXES = ("hight_block", "width_block")  # the authors' spelling


def describe(tensors: StateDict) -> dict[str, Any]:
    """The config section of an Axial-ResNet, from tensors with densevit's keys."""
    blocks = tuple(count(tensors, rf"layer{i}\.(\d+)\.conv1\.weight") for i in range(1, 5))
    depth = next((depth for depth, counts in BLOCKS.items() if counts == blocks), None)
    if depth is None:
        depths = ", ".join(f"{depth} {counts}" for depth, counts in BLOCKS.items())
        raise WeightsError(f"An Axial-ResNet of {blocks} blocks is not a known depth: {depths}.")
    first = "layer1.0.conv2.0"
    axial = {
        "num_heads": len(tensors[f"{first}.similarity_norm.weight"]) // 3,
        "image_size": 4 * (tensors[f"{first}.relative"].shape[1] // 2 + 1),  # the first map has stride 4
    }
    width = len(tensors["conv1.weight"])
    return {"backbone": {"name": "attention_resnet", "depth": depth, "width": width, "axial": axial}}


def _lines() -> tuple[Line, ...]:
    block = "layer{s}.{j}"
    names = {"downsample": "downsample", "conv_down": "conv1", "bn1": "bn1", "conv_up": "conv3", "bn2": "bn3"}
    return (
        Line("conv1.*", "conv1.*"),
        Line("bn1.*", "bn1.*"),
        *(Line(f"{block}.{source}.*", f"{block}.{target}.*") for source, target in names.items()),
        *(
            line
            for i, axis in enumerate(_AXES)
            for line in (
                Line(f"{block}.{axis}.qkv_transform.weight", f"{block}.conv2.{i}.qkv.weight", _PROJECTION),
                Line(f"{block}.{axis}.relative", f"{block}.conv2.{i}.relative"),
                *(
                    Line(f"{block}.{axis}.bn_{norm}.*", f"{block}.conv2.{i}.{norm}_norm.*")
                    for norm in ("qkv", "similarity", "output")
                ),
            )
        ),
    )


AXIAL_RESNET = CheckpointLayout(
    name="axial-deeplab-axial_resnet",
    signature_keys=("conv1.weight", "layer1.{j}.hight_block.qkv_transform.weight", "layer4.{j}.width_block.relative"),
    lines=_lines(),
    describe=describe,
    special=SpecialTensors(
        no_effect={
            "fc.*": "the classification head",
            **{f"layer{{s}}.{{j}}.{axis}.flatten_index": "an index table" for axis in _AXES},
        }
    ),
    publishing=Publishing(
        licences=Licences(
            "Apache-2.0",
            data="ImageNet",
            teacher="none",
            source="https://github.com/csrhddlam/axial-deeplab/blob/79088ed/LICENSE",
            date="2026-11-29",
        )
    ),
)
