"""Peterande/D-FINE: complete models on an HGNetv2, as trained on COCO or Objects365.

The authors' HGNetv2 and timm's `hgnetv2_b0` ... `hgnetv2_b6` have the same arithmetic and the same keys. AIFI's
positions equal the authors' on squares, such as their 640 x 640, but not on rectangles (`aifi_positions`). Exported
files lack the constants `up`, `reg_scale` and `num_points_scale`, which the authors' code computes from its config.
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
from densevit.layouts import count
from densevit_heads.parts.attention_checkpoints import deformable_attention, fused_attention
from densevit_heads.parts.convolution_checkpoints import conv_norm
from densevit_heads.parts.detector_checkpoints import BLACK, LABELS, WHITE, detection_classes, mlp, points_and_scale

_COCO = Licences(
    "Apache-2.0",
    "Apache-2.0",
    "ImageNet, COCO",
    "SSLD's (backbone)",
    "https://github.com/Peterande/D-FINE/issues/357",
    "2026-11-29",
)
_OBJECTS365 = replace(_COCO, weights="listed apart from Apache-2.0", data="ImageNet, Objects365")
_OBJECTS365_FIRST = replace(_OBJECTS365, data="ImageNet, Objects365, COCO")
LICENCES = Licences(_COCO.code, source=_COCO.source, date=_COCO.date)  # of files whose name does not tell the data
FILES = {
    **dict.fromkeys(("dfine_*_obj365*.pth", "hf:ustc-community/dfine*obj365", "dfine-*-obj365"), _OBJECTS365),
    **dict.fromkeys(
        ("dfine_*_obj2coco*.pth", "hf:ustc-community/dfine*obj2coco*", "dfine-*-obj2coco*"), _OBJECTS365_FIRST
    ),
    **dict.fromkeys(("dfine_*_coco.pth", "hf:ustc-community/dfine*coco", "dfine-*-coco"), _COCO),
}

HEAD = "heads.detection"
ENCODER, DECODER, QUERIES = f"{HEAD}.encoder", f"{HEAD}.decoder", f"{HEAD}.queries"
AIFI, LAYER = f"{ENCODER}.attention.{{i}}", f"{DECODER}.layers.{{i}}"
UNSAVED = tuple(
    f"{HEAD}.{option}"
    for option in (
        "transformer.num_heads",
        "num_points",
        "num_queries",
        "reg_scale",
        "activation",
        "contrastive_denoising",
    )
)
NUM_HEADS = 8  # of all releases
_POINTS = {2: (6, 6), 3: (3, 6, 3)}  # of all releases, by number of levels
# The output channels of the stem and of the first stage.
_VARIANTS = {
    (16, 64): "b0",
    (32, 64): "b1",
    (32, 96): "b2",
    (32, 128): "b3",
    (48, 128): "b4",
    (64, 128): "b5",
    (96, 192): "b6",
}
_RECIPES = {"b0": "s", "b2": "m", "b4": "l", "b5": "x"}


def fusion_blocks(source: str, parts: Mapping[str, str]) -> tuple[Line, ...]:
    """Maps the keys of the fusion blocks, in both paths.

    source: the prefix of the encoder. parts: the checkpoint's names of a block's parts, by the model's.
    """
    names = {parts[name]: name for name in ("enter", "branches.0.1", "branches.1.1", "leave")}
    names |= {
        f"{parts[name]}.{convolution}{i}": f"{name}.{target}"
        for name in ("branches.0.0", "branches.1.0")
        for i, (csp, vgg) in enumerate((("enter", "wide"), ("bypass", "pointwise")), 1)
        for convolution, target in (("conv", csp), ("bottlenecks.{j}.conv", f"blocks.{{j}}.{vgg}"))
    }
    return tuple(
        line
        for path, direction in (("fpn", "top_down"), ("pan", "bottom_up"))
        for convolution, name in names.items()
        for line in conv_norm(f"{source}.{path}_blocks.{{i}}.{convolution}", f"{ENCODER}.{direction}.{{i}}.{name}")
    )


def _lines() -> tuple[Line, ...]:
    aifi, layer = "encoder.encoder.0.layers.{i}", "decoder.decoder.layers.{i}"
    parts = {"enter": "cv1", "leave": "cv4"}
    parts |= {f"branches.{i}.{j}": f"cv{i + 2}.{j}" for i in range(2) for j in range(2)}
    return (
        Line("backbone.*", "backbone.model.*"),
        *conv_norm("encoder.input_proj.{i}", f"{ENCODER}.projections.{{i}}"),
        *fused_attention(f"{aifi}.self_attn", f"{AIFI}.self_attention"),
        Line(f"{aifi}.linear1.*", f"{AIFI}.feedforward.expand.*"),
        Line(f"{aifi}.linear2.*", f"{AIFI}.feedforward.contract.*"),
        Line(f"{aifi}.norm1.*", f"{AIFI}.residuals.0.norm.*"),
        Line(f"{aifi}.norm2.*", f"{AIFI}.residuals.1.norm.*"),
        *conv_norm("encoder.lateral_convs.{i}", f"{ENCODER}.laterals.{{i}}"),
        *conv_norm("encoder.downsample_convs.{i}.0.cv1", f"{ENCODER}.downsamples.{{i}}.0"),
        *conv_norm("encoder.downsample_convs.{i}.0.cv2", f"{ENCODER}.downsamples.{{i}}.1"),
        *fusion_blocks("encoder", parts),
        *conv_norm("decoder.input_proj.{i}", f"{HEAD}.projections.{{i}}"),
        *fused_attention(f"{layer}.self_attn", f"{LAYER}.self_attention"),
        *deformable_attention(f"{layer}.cross_attn", f"{LAYER}.cross_attention"),
        Line(f"{layer}.gateway.*", f"{LAYER}.gate.*"),
        Line(f"{layer}.linear1.*", f"{LAYER}.ffn.expand.*"),
        Line(f"{layer}.linear2.*", f"{LAYER}.ffn.contract.*"),
        Line(f"{layer}.norm1.*", f"{LAYER}.self_attention_norm.*"),
        Line(f"{layer}.norm3.*", f"{LAYER}.ffn_norm.*"),
        Line("decoder.denoising_class_embed.weight", f"{HEAD}.denoising.label_embedding.weight", LABELS),
        *mlp("decoder.query_pos_head", f"{DECODER}.positions", 2),
        Line("decoder.enc_output.proj.*", f"{QUERIES}.project.*"),
        Line("decoder.enc_output.norm.*", f"{QUERIES}.norm.*"),
        Line("decoder.enc_score_head.*", f"{QUERIES}.label_head.*"),
        *mlp("decoder.enc_bbox_head", f"{QUERIES}.box_head"),
        Line("decoder.dec_score_head.{i}.*", f"{DECODER}.label_heads.{{i}}.*"),
        *mlp("decoder.pre_bbox_head", f"{DECODER}.initial_box_head"),
        *mlp("decoder.dec_bbox_head.{i}", f"{DECODER}.corner_heads.{{i}}"),
        *mlp("decoder.decoder.lqe_layers.{i}.reg_conf", f"{DECODER}.qualities.{{i}}.mlp", 2),
    )


def describe(tensors: StateDict) -> dict[str, Any]:
    """The config sections of a D-FINE on an HGNetv2, from tensors with densevit's keys.

    Tensor shapes do not determine some options. The points of each level are the releases' if that gives a whole number
    of attention heads; there are 300 queries and 100 denoising queries; `reg_scale` is 4, as in all but the largest
    model. `points_and_scale` reads points and scale from the constants of a file.
    """
    levels = count(tensors, r"heads\.detection\.encoder\.projections\.(\d+)\.0\.weight")
    heads, points = _heads_and_points(tensors, levels)
    encoder_width = len(tensors[f"{ENCODER}.projections.0.1.weight"])
    width = len(tensors[f"{DECODER}.layers.0.ffn_norm.weight"])
    layers = count(tensors, r"heads\.detection\.decoder\.layers\.(\d+)\..*")
    widths = [len(tensors[f"{DECODER}.layers.{i}.ffn_norm.weight"]) for i in range(layers)]
    wide = sum(layer_width > width for layer_width in widths)
    encoder_layers = count(tensors, r"heads\.detection\.encoder\.attention\.(\d+)\..*")
    hidden = len(tensors[f"{ENCODER}.attention.0.feedforward.expand.bias"]) if encoder_layers else encoder_width
    branch = len(tensors[f"{ENCODER}.top_down.0.branches.0.1.1.weight"])
    return {
        "backbone": {"name": "timm", "model": f"hgnetv2_{_variant(tensors)}"},
        "heads": {
            "detection": {
                "name": "dfine",
                "num_queries": 300,
                "encoder": {"width": encoder_width, "feedforward": hidden, "expansion": 2 * branch / encoder_width},
                "transformer": {
                    "width": width,
                    "num_heads": heads,
                    "encoder_layers": encoder_layers,
                    "decoder_layers": len(widths) - wide,
                    "feedforward": len(tensors[f"{DECODER}.layers.0.ffn.expand.bias"]),
                    "dropout": 0.0,
                },
                "fusion_blocks": count(
                    tensors, r"heads\.detection\.encoder\.top_down\.0\.branches\.0\.0\.blocks\.(\d+)\..*"
                ),
                "num_points": points,
                "min_stride": 2 ** (6 - levels),
                "training_layers": wide,
                "layer_scale": widths[-1] // width,
                "num_bins": len(tensors[f"{DECODER}.corner_heads.0.4.bias"]) // 4 - 1,
                "reg_scale": 4.0,
                "contrastive_denoising": 100 if f"{HEAD}.denoising.label_embedding.weight" in tensors else 0,
            }
        },
    }


def _heads_and_points(tensors: StateDict, levels: int) -> tuple[int, tuple[int, ...]]:
    """The number of attention heads and the points of each level, from the product of heads and total points.

    The points are the releases' if their sum divides the product, else equal, with `NUM_HEADS` heads. levels: the
    number of levels.
    """
    rows = len(tensors[f"{DECODER}.layers.0.cross_attention.weights.bias"])
    points = _POINTS.get(levels, (4,) * levels)
    heads, rest = divmod(rows, sum(points))
    return (NUM_HEADS, (max(1, rows // (NUM_HEADS * levels)),) * levels) if rest else (heads, points)


def _variant(tensors: StateDict) -> str:
    """The variant of HGNetv2. The smaller ones have learnable affine blocks in timm and in the authors' models."""
    stem, stage = (
        len(tensors[f"backbone.model.{name}.bn.weight"]) for name in ("stem.stem4", "stages.0.blocks.0.aggregation.1")
    )
    variant = _VARIANTS.get((stem, stage))
    affine = "backbone.model.stem.stem1.lab.scale" in tensors
    if variant is None or affine != (variant in ("b0", "b1", "b2", "b3")):
        channels = f"a stem of {stem} and a first stage of {stage} channels, {'with' if affine else 'without'}"
        raise WeightsError(
            f"An HGNetv2 with {channels} learnable affine blocks: expected B0 ... B3 with them, or B4 ... B6 without."
        )
    return variant


def recipe(sections: Mapping[str, Any], classes: Mapping[str, Sequence[Class]]) -> tuple[str, dict[str, Any]]:
    """The recipe of training and evaluation on COCO."""
    size = _RECIPES.get(sections["backbone"]["model"].rpartition("_")[2], "l")
    nano = size == "s" and sections["heads"]["detection"]["encoder"]["width"] < 256
    return f"coco/dfine_{'n' if nano else size}", {}


DFINE = CheckpointLayout(
    name="dfine",
    signature_keys=(
        "backbone.stem.stem1.conv.weight",
        "encoder.input_proj.0.conv.weight",
        "encoder.fpn_blocks.0.cv2.0.bottlenecks.0.conv1.conv.weight",
        "decoder.decoder.layers.0.gateway.gate.weight",
        "decoder.decoder.lqe_layers.0.reg_conf.layers.0.weight",
        "decoder.pre_bbox_head.layers.0.weight",
    ),
    lines=_lines(),
    describe=describe,
    classes=partial(detection_classes, bias="decoder.dec_score_head.0.bias"),
    special=SpecialTensors(
        no_effect={
            "decoder.anchors": "the initial boxes of a fixed image size",
            "decoder.valid_mask": "the cells that propose boxes, of a fixed image size",
            "decoder.decoder.layers.{i}.cross_attn.num_points_scale": "the inverse of the number of points",
            "decoder.up": "the constant 0.5",
            "decoder.decoder.up": "the constant 0.5",
            "decoder.reg_scale": "the option reg_scale",
            "decoder.decoder.reg_scale": "the option reg_scale",
        }
    ),
    options=LayoutOptions(
        unsaved=UNSAVED,
        saved=partial(
            points_and_scale, points="decoder.decoder.layers.0.cross_attn.num_points_scale", scale="decoder.reg_scale"
        ),
    ),
    publishing=Publishing(mean=BLACK, std=WHITE, licences=LICENCES, files=FILES, recipe=recipe),
)
