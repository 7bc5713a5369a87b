"""lyuwenyu/RT-DETR: complete models of RT-DETR and RT-DETRv2 on a ResNet-vd, as trained on COCO.

Outputs equal the authors' on squares, such as their 640 x 640. On rectangles two parts differ: AIFI's positions follow
the map's rows (`aifi_positions`), and discrete sampling clamps each axis to its own size (`discrete_cells`).
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
from densevit_heads.parts.attention_checkpoints import deformable_attention, fused_attention
from densevit_heads.parts.convolution_checkpoints import conv_norm
from densevit_heads.parts.detector_checkpoints import BLACK, LABELS, WHITE, detection_classes, mlp

# Asks for the weights' licence, unanswered.
LICENCES = Licences(
    "Apache-2.0",
    "unknown",
    "ImageNet, COCO",
    "SSLD's (backbone)",
    "https://github.com/lyuwenyu/RT-DETR/issues/685",
    "2026-11-29",
)
FILES = {"rtdetr*objects365*.pth": replace(LICENCES, data="ImageNet, Objects365, COCO"), "rtdetr*.pth": LICENCES}

HEAD = "heads.detection"
ENCODER, DECODER, QUERIES = f"{HEAD}.encoder", f"{HEAD}.decoder.{{i}}", f"{HEAD}.queries"
UNSAVED = tuple(
    f"{HEAD}.{option}"
    for option in ("transformer.num_heads", "num_points", "num_queries", "sampling", "contrastive_denoising")
)
NUM_HEADS = 8  # of all releases; tensors show only the product of heads and points
_SCALE = "decoder.decoder.layers.0.cross_attn.num_points_scale"


def encoder_lines(source: str) -> tuple[Line, ...]:
    """Maps the keys of cross-scale fusion, also in transformers' layout. source: the prefix of the encoder."""
    names = {f"conv{i}": name for i, name in enumerate(("enter", "bypass", "leave"), 1)}
    names |= {f"bottlenecks.{{j}}.conv{i}": f"blocks.{{j}}.{name}" for i, name in ((1, "wide"), (2, "pointwise"))}
    return (
        *conv_norm(f"{source}.lateral_convs.{{i}}", f"{ENCODER}.laterals.{{i}}"),
        *conv_norm(f"{source}.downsample_convs.{{i}}", f"{ENCODER}.downsamples.{{i}}"),
        *(
            line
            for path, direction in (("fpn", "top_down"), ("pan", "bottom_up"))
            for convolution, name in names.items()
            for line in conv_norm(f"{source}.{path}_blocks.{{i}}.{convolution}", f"{ENCODER}.{direction}.{{i}}.{name}")
        ),
    )


def _lines(projection: tuple[str, str], proposal: tuple[str, str]) -> tuple[Line, ...]:
    """projection, proposal: the names of the two layers of the encoder's projections and of `enc_output`."""
    aifi, target = "encoder.encoder.0.layers.{i}", f"{ENCODER}.attention.{{i}}"
    layer = "decoder.decoder.layers.{i}"
    return (
        *backbone_lines("rtdetr-resnet", "backbone."),
        Line(f"encoder.input_proj.{{i}}.{projection[0]}.*", f"{ENCODER}.projections.{{i}}.0.*"),
        Line(f"encoder.input_proj.{{i}}.{projection[1]}.*", f"{ENCODER}.projections.{{i}}.1.*"),
        *fused_attention(f"{aifi}.self_attn", f"{target}.self_attention"),
        Line(f"{aifi}.linear1.*", f"{target}.feedforward.expand.*"),
        Line(f"{aifi}.linear2.*", f"{target}.feedforward.contract.*"),
        Line(f"{aifi}.norm1.*", f"{target}.residuals.0.norm.*"),
        Line(f"{aifi}.norm2.*", f"{target}.residuals.1.norm.*"),
        *encoder_lines("encoder"),
        *conv_norm("decoder.input_proj.{i}", f"{HEAD}.projections.{{i}}"),
        *fused_attention(f"{layer}.self_attn", f"{DECODER}.self_attention"),
        *deformable_attention(f"{layer}.cross_attn", f"{DECODER}.cross_attention"),
        Line(f"{layer}.linear1.*", f"{DECODER}.ffn.expand.*"),
        Line(f"{layer}.linear2.*", f"{DECODER}.ffn.contract.*"),
        Line(f"{layer}.norm1.*", f"{DECODER}.self_attention_norm.*"),
        Line(f"{layer}.norm2.*", f"{DECODER}.cross_attention_norm.*"),
        Line(f"{layer}.norm3.*", f"{DECODER}.ffn_norm.*"),
        Line("decoder.denoising_class_embed.weight", f"{HEAD}.denoising.label_embedding.weight", LABELS),
        *mlp("decoder.query_pos_head", f"{HEAD}.query_positions", 2),
        Line(f"decoder.enc_output.{proposal[0]}.*", f"{QUERIES}.project.*"),
        Line(f"decoder.enc_output.{proposal[1]}.*", f"{QUERIES}.norm.*"),
        Line("decoder.enc_score_head.*", f"{QUERIES}.label_head.*"),
        *mlp("decoder.enc_bbox_head", f"{QUERIES}.box_head"),
        Line("decoder.dec_score_head.{i}.*", f"{HEAD}.label_heads.{{i}}.*"),
        *mlp("decoder.dec_bbox_head.{i}", f"{HEAD}.box_heads.{{i}}"),
    )


def describe(tensors: StateDict) -> dict[str, Any]:
    """The config sections of an RT-DETR on a ResNet-vd, from tensors with densevit's keys.

    Tensor shapes do not determine the number of attention heads, which is 8 in all releases and whose product with the
    number of points is known, the number of queries, which is 300, and of denoising queries, which is 100, and how
    points are sampled. From depth 50 on, batch norms and the stem are frozen, as in the authors' configs.
    """
    resnet = find("rtdetr-resnet").describe(part(tensors, "backbone."))["backbone"]
    frozen = {"norm": "frozen", "frozen_stages": 1} if resnet["depth"] >= 50 else {}
    width, encoder_width = tensors[f"{HEAD}.projections.0.0.weight"].shape[:2]
    levels = count(tensors, r"heads\.detection\.projections\.(\d+)\.0\.weight")
    rows = len(tensors[f"{HEAD}.decoder.0.cross_attention.weights.bias"])
    points, rest = divmod(rows, NUM_HEADS * levels)
    if rest:
        raise WeightsError(
            f"Attention weights of {rows} rows for {levels} levels: expected {NUM_HEADS} heads times the levels times "
            "the points, as many for each level."
        )
    encoder_layers = count(tensors, r"heads\.detection\.encoder\.attention\.(\d+)\..*")
    hidden = len(tensors[f"{ENCODER}.attention.0.feedforward.expand.bias"]) if encoder_layers else encoder_width
    return {
        "backbone": {**resnet, **frozen},
        "heads": {
            "detection": {
                "name": "rtdetr",
                "num_queries": 300,
                "encoder": {
                    "width": encoder_width,
                    "feedforward": hidden,
                    "expansion": len(tensors[f"{ENCODER}.top_down.0.enter.1.weight"]) / encoder_width,
                },
                "transformer": {
                    "width": width,
                    "num_heads": NUM_HEADS,
                    "encoder_layers": encoder_layers,
                    "decoder_layers": count(tensors, r"heads\.detection\.decoder\.(\d+)\..*"),
                    "feedforward": len(tensors[f"{HEAD}.decoder.0.ffn.expand.bias"]),
                    "dropout": 0.0,
                },
                "num_levels": levels,
                "num_points": points,
                "contrastive_denoising": 100 if f"{HEAD}.denoising.label_embedding.weight" in tensors else 0,
            }
        },
    }


def recipe(
    sections: Mapping[str, Any], classes: Mapping[str, Sequence[Class]], version: int
) -> tuple[str, dict[str, Any]]:
    """The recipe of training and evaluation on COCO, with the settings of the ResNet-18 or the ResNet-50."""
    if version == 2:
        return "coco/rtdetrv2_r18", {}
    return f"coco/rtdetr_r{50 if sections['backbone']['depth'] >= 50 else 18}", {}


def _points(state: StateDict, metadata: Mapping[str, Any]) -> dict[str, Any]:
    """The points of each level, from version 2's buffer, which stores 1 / points once for each point."""
    counts, left = [], [round(1 / x) if x > 0 else 0 for x in state[_SCALE].tolist()] if _SCALE in state else []
    while left:
        if not 1 <= left[0] <= len(left):
            raise WeightsError(f"{_SCALE} is {state[_SCALE].tolist()}; expected 1 / points, once for each point.")
        counts.append(left[0])
        left = left[left[0] :]
    if not counts:
        return {}
    return {f"{HEAD}.num_points": counts[0] if len(set(counts)) == 1 else counts}


_SIGNATURE_KEYS = (  # of both versions
    "backbone.conv1.conv1_1.conv.weight",
    "backbone.res_layers.0.blocks.0.branch2a.conv.weight",
    "encoder.fpn_blocks.0.bottlenecks.0.conv1.conv.weight",
    "decoder.decoder.layers.0.cross_attn.sampling_offsets.weight",
    "decoder.dec_score_head.0.weight",
)
RTDETR = CheckpointLayout(
    name="rtdetr",
    signature_keys=(*_SIGNATURE_KEYS, "encoder.input_proj.0.0.weight", "decoder.enc_output.0.weight"),
    lines=_lines(("0", "1"), ("0", "1")),
    describe=describe,
    classes=partial(detection_classes, bias="decoder.dec_score_head.0.bias"),
    special=SpecialTensors(
        no_effect={
            "decoder.anchors": "the initial boxes of a fixed image size",
            "decoder.valid_mask": "the cells that propose boxes, of a fixed image size",
        }
    ),
    options=LayoutOptions(unsaved=UNSAVED),
    publishing=Publishing(
        mean=BLACK,
        std=WHITE,
        licences=LICENCES,
        files=FILES,
        recipe=partial(recipe, version=1),
    ),
)
RTDETRV2 = replace(
    RTDETR,
    name="rtdetrv2",
    signature_keys=(*_SIGNATURE_KEYS, "encoder.input_proj.0.conv.weight", "decoder.enc_output.proj.weight"),
    lines=_lines(("conv", "norm"), ("proj", "norm")),
    special=SpecialTensors(
        no_effect={
            **RTDETR.special.no_effect,
            "decoder.decoder.layers.{i}.cross_attn.num_points_scale": "the inverse of the number of points",
        }
    ),
    options=LayoutOptions(unsaved=UNSAVED, saved=_points),
    publishing=replace(RTDETR.publishing, recipe=partial(recipe, version=2)),
)
