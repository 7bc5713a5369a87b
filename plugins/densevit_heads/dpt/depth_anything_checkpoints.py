"""Depth Anything V2 and V1 (Yang et al. 2024): DPT without readout on a DINOv2 ViT, as the authors' `.pth` files.

Files of V1 and of the metric models have the same tensors as V2's relative models and are read as such. To read them
correctly, set `--as depth-anything-v1`, `--as depth-anything-v2-indoor` (20 m) or `--as depth-anything-v2-outdoor` (80
m).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch

from densevit.interfaces import (
    CheckpointLayout,
    Class,
    LayoutOptions,
    Licences,
    Line,
    Publishing,
    Rearrangement,
    SpecialTensors,
    StateDict,
)
from densevit.layouts import backbone_lines, backbone_rearrangement, by_name_only, count, find, part
from densevit_heads.dpt.checkpoints import PLACES, UNUSED_UNIT, decoder_lines

SMALL_LICENCES = Licences(
    "Apache-2.0",
    "Apache-2.0",
    "rendered, unlabelled",
    "their ViT-g",
    "https://github.com/DepthAnything/Depth-Anything-V2/blob/a561b84/README.md",
    "2026-11-29",
)
_LARGE_LICENCES = replace(SMALL_LICENCES, weights="CC-BY-NC-4.0")
V1_LICENCES = replace(
    SMALL_LICENCES,
    data="labelled, unlabelled",
    teacher="their ViT-L",
    source="https://huggingface.co/LiheYoung/depth-anything-large-hf",
)
FILES = {
    **dict.fromkeys(("depth_anything_v2_*vits.pth", "hf:depth-anything/Depth-Anything-V2-*Small*"), SMALL_LICENCES),
    **dict.fromkeys(("depth_anything_v2_*vit?.pth", "hf:depth-anything/Depth-Anything-V2-*"), _LARGE_LICENCES),
    **dict.fromkeys(("depth_anything_vit[sl]14.pth", "hf:LiheYoung/depth-anything-[sl]*"), V1_LICENCES),
    "hf:LiheYoung/depth-anything-*": replace(V1_LICENCES, weights="unknown"),  # the model card states it
}

FEATURES = "backbone.features"
MAX_DEPTH = "heads.depth.max_depth"
UNUSED_MASK = "the mask token of pre-training"
INDOOR, OUTDOOR = 20.0, 80.0  # metres: max_depth of the metric models for Hypersim and Virtual KITTI 2

_DINOV2 = find("dinov2")
OPTIONS = LayoutOptions(
    unsaved=(FEATURES, "heads.depth.output"),
    runtime=("position_resizing",),
    project_defaults=_DINOV2.options.project_defaults,
)
_SMALL = 384  # channels of the model with a different licence
_UNIT = "depth_head.scratch.refinenet4.resConfUnit1"


def features_of(version: int, depth: int) -> tuple[int, ...]:
    """The block numbers, from 1, of the feature maps of a ViT with `depth` blocks.

    V1: the last four. V2 and 3: the ends of the depth's quarters, except block 5 in place of 6 of ViT-L.
    """
    if version == 1:
        return tuple(range(depth - 3, depth + 1))
    return (5, 12, 18, 24) if depth == 24 else tuple(-(-depth * i // 4) for i in (1, 2, 3, 4))


def sections_of(tensors: StateDict, resizing: str, features: Callable[[int], tuple[int, ...]]) -> dict[str, Any]:
    """The config sections of a relative model, from tensors with densevit's keys.

    features: the option `features` of the backbone, given the number of blocks.
    """
    encoder, head = part(tensors, "backbone."), part(tensors, "heads.depth.")
    backbone = _DINOV2.describe(encoder)["backbone"]
    backbone["position_resizing"] = resizing
    backbone["features"] = features(count(encoder, r"blocks\.(\d+)\.norm1\.weight"))
    section = {
        "name": "dpt",
        "output": "relative",
        "upsampling": "exact",
        "width": len(head["decode.project.0.weight"]),
        "reassemble_channels": [head[f"decode.project.{i}.weight"].shape[1] for i in range(len(PLACES))],
    }
    return {"backbone": backbone, "heads": {"depth": section}}


def metric(sections: dict[str, Any], max_depth: float) -> dict[str, Any]:
    """The sections with depth in metres: max_depth times a sigmoid; min_depth is 0 there."""
    depth = {**sections["heads"]["depth"], "output": "sigmoid", "min_depth": 1e-6, "max_depth": max_depth}
    return {**sections, "heads": {"depth": depth}}


def recipe(sections: Mapping[str, Any], classes: Mapping[str, Sequence[Class]]) -> tuple[str, dict[str, Any]]:
    """The recipe: images are resized to a short side of 518 pixels, with their aspect ratio, as in the authors'
    code."""
    outdoor = sections["heads"]["depth"].get("max_depth", INDOOR) > INDOOR
    return ("kitti" if outdoor else "nyu") + "/depth_anything_v2_small", {}


def licences(width: int) -> Licences:
    """The licences of V2, relative and metric, which depend on the width of the ViT."""
    return SMALL_LICENCES if width == _SMALL else _LARGE_LICENCES


def lines_of(encoder: str, head: str) -> tuple[Line, ...]:
    """Maps the keys of a model. encoder, head: the prefixes of its parts."""
    scratch = f"{head}scratch"

    def sources(i: int) -> dict[str, str]:
        fuse = f"{scratch}.refinenet{i + 1}"
        return {
            "reassemble": f"{head}projects.{i}.*",
            "resample": f"{head}resize_layers.{i}.*",
            "project": f"{scratch}.layer{i + 1}_rn.*",
            "convolutions": f"{fuse}.resConfUnit{{u}}.conv{{c}}.*",
            "fuse": f"{fuse}.out_conv.*",
        }

    return (
        *backbone_lines("dinov2", encoder),
        *decoder_lines("depth", sources),
        Line(f"{scratch}.output_conv1.*", "heads.depth.conv1.*"),
        Line(f"{scratch}.output_conv2.0.*", "heads.depth.conv2.*"),
        Line(f"{scratch}.output_conv2.2.*", "heads.depth.conv3.*"),
    )


def _with_unused(encoder: Rearrangement) -> Rearrangement:
    """Wraps `encoder` to write zeros for unused tensors too, because the authors' code loads complete files only."""

    def back(state: StateDict) -> StateDict:
        state = dict(encoder.inverse(state))
        unit = "depth_head.scratch.refinenet4.resConfUnit2"
        state |= {
            key.replace(unit, _UNIT): torch.zeros_like(value) for key, value in state.items() if key.startswith(unit)
        }
        token = state.get("pretrained.cls_token")
        return state if token is None else {**state, "pretrained.mask_token": torch.zeros_like(token[0])}

    return Rearrangement(encoder.forward, back)


def _describe(version: int) -> Callable[[StateDict], dict[str, Any]]:
    return lambda tensors: sections_of(tensors, "bicubic_offset", lambda depth: features_of(version, depth))


def _metric(layout: CheckpointLayout, name: str, max_depth: float) -> CheckpointLayout:
    relative = layout.describe
    return replace(
        layout,
        name=name,
        fits=by_name_only,
        describe=lambda tensors: metric(relative(tensors), max_depth),
        options=replace(layout.options, unsaved=(MAX_DEPTH,)),
    )


V2 = CheckpointLayout(
    name="depth-anything-v2",
    signature_keys=(
        "pretrained.blocks.0.attn.qkv.weight",
        "pretrained.blocks.0.ls1.gamma",
        "depth_head.projects.0.weight",
        "depth_head.scratch.refinenet1.out_conv.weight",
        "depth_head.scratch.output_conv2.2.weight",
    ),
    lines=lines_of("pretrained.", "depth_head."),
    describe=_describe(2),
    special=SpecialTensors(
        no_effect={"pretrained.mask_token": UNUSED_MASK, f"{_UNIT}.*": UNUSED_UNIT},
        rearrange=_with_unused(backbone_rearrangement(_DINOV2, "pretrained.")),
    ),
    options=OPTIONS,
    publishing=Publishing(
        licences=lambda state, metadata: licences(state["pretrained.cls_token"].shape[-1]), files=FILES, recipe=recipe
    ),
)
V2 = replace(
    V2,
    variants=(
        _metric(V2, "depth-anything-v2-indoor", INDOOR),
        _metric(V2, "depth-anything-v2-outdoor", OUTDOOR),
        replace(
            V2,
            name="depth-anything-v1",
            fits=by_name_only,
            describe=_describe(1),
            options=replace(OPTIONS, unsaved=()),
            publishing=replace(V2.publishing, licences=V1_LICENCES),
        ),
    ),
)
