"""Intellindust-AI-Lab/GTR: complete models for detection and instance segmentation, as trained on COCO or Objects365.

Published at Phoenix8125/GTR on the Hugging Face Hub, with EMA weights, which are read. Outputs equal the authors' on
squares, the only images that their code takes. Poses, oriented boxes and depth are recognised and refused.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from densevit.errors import WeightsError
from densevit.interfaces import (
    CheckpointLayout,
    Class,
    LayoutOptions,
    Licences,
    Line,
    Publishing,
    SpecialTensors,
    StateDict,
)
from densevit.layouts import backbone_lines, count, find, part
from densevit_heads.gtr import published_models
from densevit_heads.parts import projector_checkpoints as projector
from densevit_heads.parts.attention_checkpoints import deformable_attention, fused_attention
from densevit_heads.parts.detector_checkpoints import LABELS, MASK_PARTS, detection_classes, mlp, points_and_scale

HEAD = "heads.detection"
DECODER, GROUP, LAYER = f"{HEAD}.decoder", f"{HEAD}.groups.{{i}}", f"{HEAD}.decoder.layers.{{i}}"
BACKBONE = "backbone.backbone._model."
_MASKS = "decoder.decoder.segmentation_head"
_NUM_HEADS, _POINTS = 8, (3, 6, 3)  # of all releases
_SCALE = "decoder.decoder.layers.0.cross_attn.num_points_scale"
_SIZES = {(192, 4): "s", (256, 4): "m", (384, 4): "l", (384, 6): "x"}


def head_lines() -> tuple[Line, ...]:
    """Maps the keys of the head, with masks."""
    layer = "decoder.decoder.layers.{i}"
    return (
        *fused_attention(f"{layer}.self_attn", f"{LAYER}.self_attention"),
        *deformable_attention(f"{layer}.cross_attn", f"{LAYER}.cross_attention"),
        Line(f"{layer}.gateway.*", f"{LAYER}.gate.*"),
        Line(f"{layer}.linear1.*", f"{LAYER}.ffn.expand.*"),
        Line(f"{layer}.linear2.*", f"{LAYER}.ffn.contract.*"),
        Line(f"{layer}.norm1.*", f"{LAYER}.self_attention_norm.*"),
        Line(f"{layer}.norm2.*", f"{LAYER}.ffn_norm.*"),
        Line("decoder.denoising_class_embed.weight", f"{HEAD}.denoising.label_embedding.weight", LABELS),
        *mlp("decoder.query_pos_head", f"{DECODER}.positions"),
        Line("decoder.enc_score_head_group.{i}.*", f"{GROUP}.label_head.*"),
        *mlp("decoder.enc_bbox_head_group.{i}", f"{GROUP}.box_head"),
        Line("decoder.dec_score_head.{i}.*", f"{DECODER}.label_heads.{{i}}.*"),
        *mlp("decoder.pre_bbox_head", f"{DECODER}.initial_box_head"),
        *mlp("decoder.dec_bbox_head.{i}", f"{DECODER}.corner_heads.{{i}}"),
        *mlp("decoder.decoder.lqe_layers.{i}.reg_conf", f"{DECODER}.qualities.{{i}}.mlp", 2),
        *(Line(f"{_MASKS}.{name}.*", f"{HEAD}.mask_branch.{part}.*") for name, part in MASK_PARTS.items()),
        Line(f"{_MASKS}.bias", f"{HEAD}.mask_branch.bias"),
    )


def describe(tensors: StateDict) -> dict[str, Any]:
    """The config sections of a model, from tensors with densevit's keys.

    Tensor shapes do not determine some options, which are those of the releases: 8 attention heads, the points of each
    level, 300 queries and 100 denoising queries. `points_and_scale` reads points and scale from constants of a file.
    """
    backbone, neck = describe_backbone(tensors)
    masks = f"{HEAD}.mask_branch.bias" in tensors
    head = {
        "name": "gtr_instance" if masks else "gtr",
        "neck": neck,
        "num_queries": 300,
        "transformer": {
            "width": len(tensors[f"{DECODER}.layers.0.ffn_norm.weight"]),
            "num_heads": _NUM_HEADS,
            "encoder_layers": 0,
            "decoder_layers": count(tensors, r"heads\.detection\.decoder\.layers\.(\d+)\..*"),
            "feedforward": len(tensors[f"{DECODER}.layers.0.ffn.expand.bias"]),
            "dropout": 0.0,
        },
        "num_points": _POINTS,
        "num_bins": len(tensors[f"{DECODER}.corner_heads.0.4.bias"]) // 4 - 1,
        "reg_scale": 4.0,
        "num_groups": count(tensors, r"heads\.detection\.groups\.(\d+)\..*"),
        "contrastive_denoising": 100 if f"{HEAD}.denoising.label_embedding.weight" in tensors else 0,
        **({"evaluation": {"name": "coco_masks"}} if masks else {}),
    }
    return {"backbone": backbone, "heads": {"detection": head}}


def describe_backbone(tensors: StateDict, task: str = "detection") -> tuple[dict[str, Any], dict[str, Any]]:
    """The sections of the backbone and of the neck, from tensors with densevit's keys."""
    backbone = find("gtr-backbone").describe(part(tensors, "backbone."))["backbone"]
    neck = projector.describe(part(tensors, f"necks.{task}."), 16)
    return backbone, {**neck, "downsampling_activation": "silu"}


def recipe(sections: Mapping[str, Any], classes: Mapping[str, Sequence[Class]]) -> tuple[str, dict[str, Any]]:
    """The recipe of training and evaluation on COCO; with masks, of fine-tuning."""
    masks = sections["heads"]["detection"]["name"] == "gtr_instance"
    return "start/gtr_masks" if masks else f"coco/gtr_{sections['backbone']['variant']}", {}


def _is_oriented(state: StateDict, metadata: Mapping[str, Any]) -> bool:
    """Whether boxes have an angle."""
    return len(state[_INITIAL_BOX]) == 5


def _refuse(models: str, state: StateDict, metadata: Mapping[str, Any]) -> Licences:
    raise WeightsError(f"A GTR for {models}, which is not supported. Use one for detection, as det/gtr_s_coco.pth.")


SIGNATURE_KEYS = (
    f"{BACKBONE}blocks.0.attn.gk_proj.0.weight",
    "encoder.stages.0.1.weight",
    "encoder.stages_sampling.0.0.0.weight",
)  # of all tasks
_INITIAL_BOX = "decoder.pre_bbox_head.layers.2.bias"
NORM = SpecialTensors(
    no_effect={f"{BACKBONE}norm.*": "a norm after the last block, which the authors' code does not call"}
)
_CONSTANTS = {
    "decoder.anchors": "the initial boxes of a fixed image size",
    "decoder.valid_mask": "the cells that propose boxes, of a fixed image size",
    "decoder.decoder.layers.{i}.cross_attn.num_points_scale": "the inverse of the number of points",
    "decoder.up": "the constant 0.5",
    "decoder.decoder.up": "the constant 0.5",
    "decoder.reg_scale": "the option reg_scale",
    "decoder.decoder.reg_scale": "the option reg_scale",
    "decoder.enc_score_head.*": "the untrained template of the heads of the groups",
    "decoder.enc_bbox_head.*": "the untrained template of the heads of the groups",
}
GTR = CheckpointLayout(
    name="gtr",
    signature_keys=(*SIGNATURE_KEYS, "decoder.dec_score_head.0.weight", _INITIAL_BOX),
    lines=(*backbone_lines("gtr-backbone", BACKBONE), *projector.authors("encoder", "norm"), *head_lines()),
    describe=describe,
    classes=partial(detection_classes, bias="decoder.dec_score_head.0.bias"),
    special=SpecialTensors(no_effect={**NORM.no_effect, **_CONSTANTS}),
    options=LayoutOptions(
        unsaved=tuple(
            f"{HEAD}.{option}"
            for option in ("transformer.num_heads", "num_points", "num_queries", "reg_scale", "contrastive_denoising")
        ),
        saved=partial(points_and_scale, points=_SCALE, scale="decoder.reg_scale"),
    ),
    publishing=replace(find("gtr-backbone").publishing, models=published_models.GTR, recipe=recipe),
    fits=lambda state, metadata: not _is_oriented(state, metadata),
)


def _refused(name: str, models: str, signature_keys: tuple[str, ...]) -> CheckpointLayout:
    publishing = Publishing(licences=partial(_refuse, models))
    return replace(
        GTR,
        name=f"gtr-{name}",
        signature_keys=(*SIGNATURE_KEYS, *signature_keys),
        publishing=publishing,
        classes=None,
        fits=None,
    )


POSE = _refused("pose", "poses", ("decoder.keypoint_embedding.weight",))
DEPTH = _refused("depth", "depth", ("decoder.output_conv2.2.weight", "decoder.refinenet1.out_conv.weight"))
ORIENTED = replace(_refused("oriented", "oriented boxes", GTR.signature_keys[len(SIGNATURE_KEYS) :]), fits=_is_oriented)
