"""SegFormer (Xie et al. 2021): complete models of NVIDIA's release (NVlabs/SegFormer) and of transformers."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from densevit.interfaces import CheckpointLayout, Class, Line, OtherKeys, SpecialTensors, StateDict
from densevit.layouts import backbone_lines, find, part
from densevit_heads.parts.class_map_checkpoints import classes_of, label_maps
from densevit_heads.segformer.published_models import MODELS

_HEAD = "heads.segmentation"
_NVIDIA, _TRANSFORMERS = find("nvidia-mit"), find("transformers-mit")
_RECIPES = {150: "ade20k", 19: "cityscapes"}


def _describe(tensors: StateDict, backbone: CheckpointLayout) -> dict[str, Any]:
    """The config sections, from tensors with densevit's keys."""
    section = {"name": "segformer", "width": len(tensors[f"{_HEAD}.fuse.weight"])}
    return {**backbone.describe(part(tensors, "backbone.")), "heads": {"segmentation": section}}


def _recipe(sections: Mapping[str, Any], classes: Mapping[str, Sequence[Class]]) -> tuple[str, dict[str, Any]]:
    """The recipe of training on ADE20K or Cityscapes, by the number of classes; for other classes ADE20K's, on label
    maps."""
    labels = classes.get("segmentation", ())
    folder = _RECIPES.get(len(labels), "ade20k")
    recipe = f"{folder}/segformer_{'b5' if folder == 'ade20k' and sections['backbone']['variant'] == 'b5' else 'b0'}"
    return recipe, {} if len(labels) in _RECIPES else label_maps(labels)


def _config(sections: Mapping[str, Any], state: StateDict, classes: Sequence[Class]) -> dict[str, dict[str, Any]]:
    files = _TRANSFORMERS.publishing.config_files(sections, part(state, "backbone."), ())
    head = {
        "architectures": ["SegformerForSemanticSegmentation"],
        "decoder_hidden_size": sections["heads"]["segmentation"]["width"],
        "semantic_loss_ignore_index": 255,
    }
    return {
        "config.json": files["config.json"] | head,
        "preprocessor_config.json": {"image_processor_type": "SegformerImageProcessor"},
    }


SEGFORMER = CheckpointLayout(
    name="segformer",
    signature_keys=(
        *(f"backbone.{key}" for key in _NVIDIA.signature_keys),
        "decode_head.linear_c4.proj.weight",
        "decode_head.linear_fuse.conv.weight",
    ),
    lines=(
        *backbone_lines("nvidia-mit", "backbone."),
        *(Line(f"decode_head.linear_c{i + 1}.proj.*", f"{_HEAD}.project.{i}.*") for i in range(4)),
        Line("decode_head.linear_fuse.conv.weight", f"{_HEAD}.fuse.weight"),
        Line("decode_head.linear_fuse.bn.*", f"{_HEAD}.fuse_norm.*"),
        Line("decode_head.linear_pred.*", f"{_HEAD}.classifier.*"),
    ),
    describe=partial(_describe, backbone=_NVIDIA),
    classes=partial(classes_of, bias="decode_head.linear_pred.bias"),
    special=SpecialTensors(no_effect={"decode_head.conv_seg.*": "a classifier that the head does not use"}),
    options=_NVIDIA.options,
    publishing=replace(_NVIDIA.publishing, recipe=_recipe),
)
TRANSFORMERS = CheckpointLayout(
    name="transformers-segformer",
    signature_keys=(
        *(f"segformer.{key}" for key in _TRANSFORMERS.signature_keys),
        "decode_head.linear_c.{i}.proj.weight",
        "decode_head.linear_fuse.weight",
    ),
    lines=(
        *backbone_lines("transformers-mit", "segformer."),
        Line("decode_head.linear_c.{i}.proj.*", f"{_HEAD}.project.{{i}}.*"),
        Line("decode_head.linear_fuse.weight", f"{_HEAD}.fuse.weight"),
        Line("decode_head.batch_norm.*", f"{_HEAD}.fuse_norm.*"),
        Line("decode_head.classifier.*", f"{_HEAD}.classifier.*"),
    ),
    describe=partial(_describe, backbone=_TRANSFORMERS),
    classes=partial(classes_of, bias="decode_head.classifier.bias"),
    other_keys=OtherKeys(
        spellings=(
            *((f"segformer.{memory}", f"segformer.{name}") for memory, name in _TRANSFORMERS.other_keys.spellings),
            ("decode_head.linear_projections.{i}.*", "decode_head.linear_c.{i}.*"),
        )
    ),
    options=_TRANSFORMERS.options,
    publishing=replace(_TRANSFORMERS.publishing, models=MODELS, config_files=_config, recipe=_recipe),
)
