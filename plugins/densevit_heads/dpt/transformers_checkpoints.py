"""transformers' DPTForDepthEstimation and DPTForSemanticSegmentation, on their own ViT and hybrid."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from densevit.interfaces import CheckpointLayout, Class, Line, Publishing, SpecialTensors, StateDict
from densevit.layouts import GRID, TOKENS, added_to_tokens, find, part
from densevit_heads.dpt.checkpoints import (
    FILES,
    LICENCES,
    UNUSED_NORM,
    UNUSED_UNIT,
    Task,
    decoder_lines,
    output_lines,
    whole_model,
)
from densevit_heads.dpt.published_models import TRANSFORMERS as MODELS

_EMBEDDINGS, _BLOCK, _BIT = "dpt.embeddings", "dpt.encoder.layer.{i}", "dpt.embeddings.backbone.bit"
_TARGET_BLOCK = "backbone.blocks.{i}"
_FEATURES = "backbone.features"

_BLOCKS = (
    Line(f"{_EMBEDDINGS}.cls_token", "backbone.class_token", TOKENS),
    Line(f"{_EMBEDDINGS}.position_embeddings", "backbone.position_table", GRID),
    Line(f"{_BLOCK}.layernorm_before.*", f"{_TARGET_BLOCK}.norm1.*"),
    Line(f"{_BLOCK}.attention.attention.query.*", f"{_TARGET_BLOCK}.attention.qkv.*[0/3]"),
    Line(f"{_BLOCK}.attention.attention.key.*", f"{_TARGET_BLOCK}.attention.qkv.*[1/3]"),
    Line(f"{_BLOCK}.attention.attention.value.*", f"{_TARGET_BLOCK}.attention.qkv.*[2/3]"),
    Line(f"{_BLOCK}.attention.output.dense.*", f"{_TARGET_BLOCK}.attention.output.*"),
    Line(f"{_BLOCK}.layernorm_after.*", f"{_TARGET_BLOCK}.norm2.*"),
    Line(f"{_BLOCK}.intermediate.dense.*", f"{_TARGET_BLOCK}.mlp.expand.*"),
    Line(f"{_BLOCK}.output.dense.*", f"{_TARGET_BLOCK}.mlp.contract.*"),
)
_PATCHES = (Line(f"{_EMBEDDINGS}.patch_embeddings.projection.*", "backbone.stem.projection.*"),)
_RESNET = (
    Line(f"{_EMBEDDINGS}.projection.*", "backbone.stem.projection.*"),
    Line(f"{_BIT}.embedder.convolution.*", "backbone.stem.conv.*"),
    Line(f"{_BIT}.embedder.norm.*", "backbone.stem.norm.*"),
    Line(f"{_BIT}.encoder.stages.{{s}}.layers.{{b}}.downsample.conv.*", "backbone.stem.stages.{s}.{b}.downsample.0.*"),
    Line(f"{_BIT}.encoder.stages.{{s}}.layers.{{b}}.downsample.norm.*", "backbone.stem.stages.{s}.{b}.downsample.1.*"),
    Line(f"{_BIT}.encoder.stages.{{s}}.layers.{{b}}.*", "backbone.stem.stages.{s}.{b}.*"),
)


def _lines(task: Task, hybrid: bool) -> tuple[Line, ...]:
    def sources(i: int) -> dict[str, str]:
        stage, fuse = "neck.reassemble_stage", f"neck.fusion_stage.layers.{3 - i}"  # numbered from the coarsest
        return {
            "readout": f"{stage}.readout_projects.{i}.0.*",
            "reassemble": f"{stage}.layers.{i}.projection.*",
            "resample": f"{stage}.layers.{i}.resize.*",
            "project": f"neck.convs.{i}.*",
            "convolutions": f"{fuse}.residual_layer{{u}}.convolution{{c}}.*",
            "norms": f"{fuse}.residual_layer{{u}}.batch_norm{{c}}.*",
            "fuse": f"{fuse}.projection.*",
        }

    outputs = output_lines(task, "head.head", "auxiliary_head.head")
    return (*_BLOCKS, *(_RESNET if hybrid else _PATCHES), *decoder_lines(task, sources, hybrid), *outputs)


def _config(sections: Mapping[str, Any], state: StateDict, classes: Sequence[Class]) -> dict[str, dict[str, Any]]:
    """A DPT on a plain ViT."""
    backbone, (task, head) = sections["backbone"], next(iter(sections["heads"].items()))
    files = find("transformers-vit").publishing.config_files({"backbone": backbone}, part(state, "backbone."), ())
    if not files or head.get("output", "relative") != "relative" or backbone.get("readout") != "project":
        return {}
    encoder = files["config.json"]
    depth = encoder["num_hidden_layers"]
    features = backbone.get("features") or [-(-depth * i // 4) for i in (1, 2, 3, 4)]
    depth_head = task == "depth"
    config = encoder | {
        "model_type": "dpt",
        "architectures": ["DPTForDepthEstimation" if depth_head else "DPTForSemanticSegmentation"],
        "is_hybrid": False,
        "backbone_out_indices": [number - 1 for number in features],
        "readout_type": "project",
        "reassemble_factors": [4, 2, 1, 0.5],
        "neck_hidden_sizes": [*head["reassemble_channels"]],
        "fusion_hidden_size": head["width"],
        "use_batch_norm_in_fusion_residual": not depth_head or head.get("norm", "none") != "none",
        "use_auxiliary_head": not depth_head and "heads.segmentation.auxiliary.0.weight" in state,
    }
    return {"config.json": config}


def _saved_options(state: StateDict, metadata: Mapping[str, Any]) -> dict[str, Any]:
    """From config.json: the blocks of the feature maps. A hybrid's first two maps are the ResNet's."""
    find("transformers-vit").options.saved(state, metadata)
    config = metadata.get("config", {})
    blocks = config.get("backbone_out_indices")
    if config.get("model_type") != "dpt" or blocks is None:
        return {}
    return {_FEATURES: tuple(int(block) + 1 for block in blocks[2 if config.get("is_hybrid") else 0 :])}


def _layout(name: str, task: Task, hybrid: bool) -> CheckpointLayout:
    published = Publishing(licences=LICENCES, files=FILES, models=MODELS.get(name, {}))
    return whole_model(
        name,
        (
            f"{_BLOCK}.attention.attention.query.weight",
            "neck.fusion_stage.layers.{i}.projection.weight",
            f"{_BIT}.embedder.convolution.weight" if hybrid else "neck.reassemble_stage.layers.0.resize.weight",
            "head.head.2.weight" if task == "depth" else "head.head.1.running_mean",
        ),
        _lines(task, hybrid),
        task,
        "head.head.4.bias",
        SpecialTensors(
            no_effect={
                "dpt.layernorm.*": UNUSED_NORM,
                "neck.fusion_stage.layers.0.residual_layer1.*": UNUSED_UNIT,
            },
            rearrange=added_to_tokens(f"{_EMBEDDINGS}.position_embeddings", (f"{_EMBEDDINGS}.cls_token",)),
        ),
        replace(
            find("timm-vit").options,
            unsaved=(_FEATURES,),
            saved=_saved_options,
            implied={
                "hidden_act": ("gelu",),
                "readout_type": ("project",),
                "reassemble_factors": ([4, 2, 1, 0.5], [1, 1, 1, 0.5]),  # of the hybrid, whose first two maps stay
                "head_in_index": (-1,),
                "add_projection": (False,),
            },
        ),
        published if hybrid else replace(published, config_files=_config),
    )


DPT = replace(
    _layout("transformers-dpt", "depth", hybrid=False),
    variants=(
        _layout("transformers-dpt-hybrid", "depth", hybrid=True),
        _layout("transformers-dpt-segmentation", "segmentation", hybrid=False),
        _layout("transformers-dpt-hybrid-segmentation", "segmentation", hybrid=True),
    ),
)
