"""Depth Anything 3 (Lin et al. 2025), DA3MONO: DPT with a sky map on a DINOv2 ViT-L.

The project's other models attend over several images, and have other tensors.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from densevit.interfaces import CheckpointLayout, Class, Licences, Line, Publishing, SpecialTensors, StateDict
from densevit.layouts import backbone_rearrangement, find
from densevit_heads.dpt import published_models
from densevit_heads.dpt.depth_anything_checkpoints import OPTIONS, features_of, lines_of, sections_of

LICENCES = Licences(
    "Apache-2.0",
    "Apache-2.0",
    "public data sets",
    "their monocular model",
    "https://github.com/ByteDance-Seed/Depth-Anything-3/blob/2c21ea8/README.md",
    "2026-11-30",
)
_ENCODER, _HEAD = "model.backbone.pretrained.", "model.head."
_SKY = "scratch.sky_output_conv2"
_NORM_EPS = "feature_norm_eps"


def _describe(tensors: StateDict) -> dict[str, Any]:
    sections = sections_of(tensors, "bicubic_offset", lambda depth: features_of(3, depth))
    sections["backbone"][_NORM_EPS] = 1e-5  # PyTorch's default, in place of DINOv2's 1e-6
    sections["heads"]["depth"] |= {"output": "relative_exponential", "sky": True}
    return sections


def _recipe(sections: Mapping[str, Any], classes: Mapping[str, Sequence[Class]]) -> tuple[str, dict[str, Any]]:
    """The recipe: images are resized to a long side of 504 pixels, with their aspect ratio, as in the authors' code."""
    return "start/depth_anything_3", {}


DEPTH_ANYTHING_3 = CheckpointLayout(
    name="depth-anything-3",
    signature_keys=(
        f"{_ENCODER}blocks.0.attn.qkv.weight",
        f"{_ENCODER}blocks.0.ls1.gamma",
        f"{_HEAD}projects.0.weight",
        f"{_HEAD}scratch.refinenet1.out_conv.weight",
        f"{_HEAD}{_SKY}.2.weight",
    ),
    lines=(*lines_of(_ENCODER, _HEAD), Line(f"{_HEAD}{_SKY}.{{i}}.*", "heads.depth.sky.{i}.*")),
    describe=_describe,
    special=SpecialTensors(rearrange=backbone_rearrangement(find("dinov2"), _ENCODER)),
    options=replace(OPTIONS, project_defaults=(*OPTIONS.project_defaults, _NORM_EPS)),
    publishing=Publishing(
        licences=LICENCES,
        files={"hf:depth-anything/DA3MONO-LARGE": LICENCES},
        models=published_models.DEPTH_ANYTHING_3,
        recipe=_recipe,
    ),
)
