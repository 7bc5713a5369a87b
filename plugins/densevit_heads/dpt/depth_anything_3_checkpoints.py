"""Depth Anything 3 (Lin et al. 2025), DA3MONO and DA3METRIC: DPT with a sky map on a DINOv2 ViT-L.

Both have the same tensors; config.json names the model. Without it, tensors are read as DA3MONO's. To read them in
metres, set `--as depth-anything-3-metric`. The project's other models attend over several images, and have other
tensors. In the sky the authors' code sets depth to the 99th percentile of the other pixels; here it is 0, unknown.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from densevit.interfaces import CheckpointLayout, Class, Licences, Line, Publishing, SpecialTensors, StateDict
from densevit.layouts import backbone_rearrangement, find
from densevit_heads.dpt import published_models
from densevit_heads.dpt.depth_anything_checkpoints import FEATURES, OPTIONS, features_of, lines_of, sections_of

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


def _describe_metric(tensors: StateDict) -> dict[str, Any]:
    """With metres of a camera with a focal length of 300 pixels, as `apply_metric_scaling`."""
    sections = _describe(tensors)
    sections["heads"]["depth"] |= {"output": "exponential", "camera": "canonical", "canonical_focal": 300.0}
    return sections


def _is_metric(state: StateDict, metadata: Mapping[str, Any]) -> bool:
    return metadata.get("config", {}).get("model_name") == "da3metric-large"


def _recipe(sections: Mapping[str, Any], classes: Mapping[str, Sequence[Class]]) -> tuple[str, dict[str, Any]]:
    """The recipe: images are resized to a long side of 504 pixels, and to multiples of 14, as in the authors' code."""
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
    fits=lambda state, metadata: not _is_metric(state, metadata),
    special=SpecialTensors(rearrange=backbone_rearrangement(find("dinov2"), _ENCODER)),
    options=replace(OPTIONS, project_defaults=(*OPTIONS.project_defaults, _NORM_EPS)),
    publishing=Publishing(
        licences=LICENCES,
        files={"hf:depth-anything/DA3M*-LARGE": LICENCES},
        models=published_models.DEPTH_ANYTHING_3,
        recipe=_recipe,
    ),
)
DEPTH_ANYTHING_3 = replace(
    DEPTH_ANYTHING_3,
    variants=(
        replace(
            DEPTH_ANYTHING_3,
            name="depth-anything-3-metric",
            fits=_is_metric,
            describe=_describe_metric,
            options=replace(DEPTH_ANYTHING_3.options, unsaved=(FEATURES,)),
            publishing=replace(DEPTH_ANYTHING_3.publishing, models=published_models.DEPTH_ANYTHING_3_METRIC),
        ),
    ),
)
