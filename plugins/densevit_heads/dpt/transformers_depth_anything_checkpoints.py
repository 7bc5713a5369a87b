"""transformers' DepthAnythingForDepthEstimation: Depth Anything V1 and V2, relative and in metres."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from densevit.errors import WeightsError
from densevit.interfaces import (
    CheckpointLayout,
    Class,
    Licences,
    Line,
    OtherKeys,
    Publishing,
    SpecialTensors,
    StateDict,
)
from densevit.layouts import backbone_rearrangement, find, part
from densevit_heads.dpt import published_models
from densevit_heads.dpt.checkpoints import UNUSED_UNIT, decoder_lines
from densevit_heads.dpt.depth_anything_checkpoints import (
    FEATURES,
    FILES,
    INDOOR,
    MAX_DEPTH,
    OPTIONS,
    UNUSED_MASK,
    V1_LICENCES,
    features_of,
    licences,
    metric,
    recipe,
    sections_of,
)

_DINOV2 = next(layout for layout in find("transformers-vit").variants if layout.name == "transformers-dinov2")
_TOKEN = "backbone.embeddings.cls_token"
_FACTORS = [4, 2, 1, 0.5]
_PROCESSOR = {  # as published: the short side becomes 518 pixels, both sides multiples of 14
    "image_processor_type": "DPTImageProcessor",
    "do_resize": True,
    "size": {"height": 518, "width": 518},
    "keep_aspect_ratio": True,
    "ensure_multiple_of": 14,
    "resample": 3,
}


def _lines() -> tuple[Line, ...]:
    def sources(i: int) -> dict[str, str]:
        layer, fuse = f"neck.reassemble_stage.layers.{i}", f"neck.fusion_stage.layers.{3 - i}"  # from the coarsest
        return {
            "reassemble": f"{layer}.projection.*",
            "resample": f"{layer}.resize.*",
            "project": f"neck.convs.{i}.*",
            "convolutions": f"{fuse}.residual_layer{{u}}.convolution{{c}}.*",
            "fuse": f"{fuse}.projection.*",
        }

    encoder = (Line(f"backbone.{line.foreign_key}", f"backbone.{line.key}", line.change) for line in _DINOV2.lines)
    return (*encoder, *decoder_lines("depth", sources), Line("head.conv{i}.*", "heads.depth.conv{i}.*"))


def _describe(tensors: StateDict) -> dict[str, Any]:
    return sections_of(tensors, "bicubic", lambda depth: features_of(2, depth))


def _saved_options(state: StateDict, metadata: Mapping[str, Any]) -> dict[str, Any]:
    """From config.json: the blocks of the feature maps, relative or metric depth, and the maximum depth."""
    config = metadata.get("config", {})
    encoder = config.get("backbone_config") or {}
    _DINOV2.options.saved(state, {"config": encoder})
    if config.get("model_type") != "depth_anything":
        return {}
    options: dict[str, Any] = {"heads.depth.output": "relative"}
    scale = config.get("max_depth")
    if _is_metric(state, metadata):
        if not isinstance(scale, (int, float)) or scale <= 0:
            raise WeightsError(
                f"config.json has depth_estimation_type: metric and max_depth: {scale}; expected the largest depth in "
                "metres. Fix: set max_depth to the value of training, such as 20 (indoor) or 80 (outdoor)."
            )
        options = {"heads.depth.output": "sigmoid", MAX_DEPTH: float(scale)}
    elif scale not in (None, 1):
        raise WeightsError(
            f"config.json has max_depth: {scale} of a relative model, which transformers multiplies its output by; a "
            "relative head is built with 1 only. Fix: write max_depth: 1 there."
        )
    if "out_indices" in encoder:
        options[FEATURES] = tuple(int(number) for number in encoder["out_indices"])
    return options


def _is_metric(state: StateDict, metadata: Mapping[str, Any]) -> bool:
    return metadata.get("config", {}).get("depth_estimation_type") == "metric"


def _licences(state: StateDict, metadata: Mapping[str, Any]) -> Licences:
    encoder = metadata.get("config", {}).get("backbone_config") or {}
    blocks = encoder.get("out_indices")
    if blocks and [*blocks] == [*range(blocks[-1] - 3, blocks[-1] + 1)]:
        return V1_LICENCES
    return licences(state[_TOKEN].shape[-1])


def _config(sections: Mapping[str, Any], state: StateDict, classes: Sequence[Class]) -> dict[str, dict[str, Any]]:
    backbone, head = sections["backbone"], sections["heads"]["depth"]
    files = _DINOV2.publishing.config_files({"backbone": backbone}, part(state, "backbone."), ())
    relative, scale = head["output"] == "relative", head.get("max_depth", INDOOR)
    plain = backbone.get("readout", "ignore") == "ignore" and backbone.get("feature_norm", True)
    expressible = relative or (head["output"] == "sigmoid" and scale == int(scale))  # config.json has an integer
    if not files or not plain or not expressible or "registers" in backbone or head["upsampling"] != "exact":
        return {}
    numbers = [*backbone["features"]]
    encoder = files["config.json"] | {
        "architectures": ["Dinov2Backbone"],
        "out_indices": numbers,
        "out_features": [f"stage{number}" for number in numbers],
        "apply_layernorm": True,
        "reshape_hidden_states": False,
    }
    config = {
        "model_type": "depth_anything",
        "architectures": ["DepthAnythingForDepthEstimation"],
        "backbone_config": encoder,
        "patch_size": backbone["patch_size"],
        "reassemble_hidden_size": encoder["hidden_size"],
        "reassemble_factors": _FACTORS,
        "neck_hidden_sizes": [*head["reassemble_channels"]],
        "fusion_hidden_size": head["width"],
        "head_hidden_size": len(state["heads.depth.conv2.bias"]),
        "depth_estimation_type": "relative" if relative else "metric",
        "max_depth": 1 if relative else int(scale),
    }
    return {"config.json": config, "preprocessor_config.json": _PROCESSOR}


DEPTH_ANYTHING = CheckpointLayout(
    name="transformers-depth-anything",
    signature_keys=(
        "backbone.encoder.layer.0.attention.attention.query.weight",
        "backbone.encoder.layer.0.layer_scale1.lambda1",
        "neck.reassemble_stage.layers.0.resize.weight",
        "neck.fusion_stage.layers.{i}.projection.weight",
        "head.conv3.weight",
    ),
    lines=_lines(),
    describe=_describe,
    fits=lambda state, metadata: not _is_metric(state, metadata),
    other_keys=OtherKeys(
        spellings=tuple((f"backbone.{memory}", f"backbone.{file}") for memory, file in _DINOV2.other_keys.spellings)
    ),
    special=SpecialTensors(
        no_effect={
            "backbone.embeddings.mask_token": UNUSED_MASK,
            "neck.fusion_stage.layers.0.residual_layer1.*": UNUSED_UNIT,
        },
        rearrange=backbone_rearrangement(_DINOV2, "backbone."),
    ),
    options=replace(
        OPTIONS,
        saved=_saved_options,
        implied={
            "reassemble_factors": (_FACTORS,),
            "head_in_index": (-1,),
            "head_hidden_size": (32,),
            "depth_estimation_type": ("relative", "metric"),
            "backbone_config.model_type": ("dinov2",),
            "backbone_config.hidden_act": ("gelu",),
            "backbone_config.apply_layernorm": (True,),
            "backbone_config.layer_norm_eps": (1e-6,),
        },
    ),
    publishing=Publishing(
        licences=_licences, files=FILES, models=published_models.DEPTH_ANYTHING, config_files=_config, recipe=recipe
    ),
)
DEPTH_ANYTHING = replace(
    DEPTH_ANYTHING,
    variants=(
        replace(
            DEPTH_ANYTHING,
            name="transformers-depth-anything-metric",
            fits=_is_metric,
            describe=lambda tensors: metric(_describe(tensors), INDOOR),
            options=replace(DEPTH_ANYTHING.options, unsaved=(FEATURES, MAX_DEPTH)),
            publishing=replace(DEPTH_ANYTHING.publishing, models=published_models.DEPTH_ANYTHING_METRIC),
        ),
    ),
)
