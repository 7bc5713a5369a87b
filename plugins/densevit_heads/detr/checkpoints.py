"""facebookresearch/detr (Carion et al. 2020): complete models: R50, R50-DC5, R101 and R101-DC5, as trained on COCO."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from densevit.interfaces import CheckpointLayout, Class, LayoutOptions, Licences, Line, Publishing, StateDict
from densevit.layouts import count, find, part
from densevit_heads.parts.attention_checkpoints import fused_attention
from densevit_heads.parts.detector_checkpoints import class_rows, head_classes

LICENCES = Licences(
    "Apache-2.0",
    "Apache-2.0",
    "ImageNet, COCO",
    "none",
    "https://github.com/facebookresearch/detr/blob/29901c5/README.md",
    "2026-11-29",
)
FILES = {"detr-r*.pth": LICENCES, "hf:facebook/detr-resnet-*": LICENCES}

ENCODER, DECODER, HEAD = "heads.detection.encoder.{i}", "heads.detection.decoder.{i}", "heads.detection"

UNSAVED = ("backbone.dilation", "heads.detection.transformer.num_heads")  # not determined by tensor shapes


CLASS_ROWS = class_rows(no_object=True)


LINES = (
    Line("backbone.0.body.*", "backbone.*"),
    Line("backbone.1.row_embed.weight", f"{HEAD}.positions.rows"),
    Line("backbone.1.col_embed.weight", f"{HEAD}.positions.columns"),
    Line("input_proj.*", f"{HEAD}.project.project.*"),
    Line("query_embed.weight", f"{HEAD}.query_embedding.weight"),
    *fused_attention("transformer.encoder.layers.{i}.self_attn", f"{ENCODER}.self_attention"),
    Line("transformer.encoder.layers.{i}.linear1.*", f"{ENCODER}.feedforward.expand.*"),
    Line("transformer.encoder.layers.{i}.linear2.*", f"{ENCODER}.feedforward.contract.*"),
    Line("transformer.encoder.layers.{i}.norm1.*", f"{ENCODER}.residuals.0.norm.*"),
    Line("transformer.encoder.layers.{i}.norm2.*", f"{ENCODER}.residuals.1.norm.*"),
    Line("transformer.encoder.norm.*", f"{HEAD}.encoder_norm.*"),
    *fused_attention("transformer.decoder.layers.{i}.self_attn", f"{DECODER}.self_attention"),
    *fused_attention("transformer.decoder.layers.{i}.multihead_attn", f"{DECODER}.cross_attention"),
    Line("transformer.decoder.layers.{i}.linear1.*", f"{DECODER}.feedforward.expand.*"),
    Line("transformer.decoder.layers.{i}.linear2.*", f"{DECODER}.feedforward.contract.*"),
    Line("transformer.decoder.layers.{i}.norm1.*", f"{DECODER}.residuals.0.norm.*"),
    Line("transformer.decoder.layers.{i}.norm2.*", f"{DECODER}.residuals.1.norm.*"),
    Line("transformer.decoder.layers.{i}.norm3.*", f"{DECODER}.residuals.2.norm.*"),
    Line("transformer.decoder.norm.*", f"{HEAD}.decoder_norm.*"),
    Line("class_embed.weight", f"{HEAD}.label_head.weight", CLASS_ROWS),
    Line("class_embed.bias", f"{HEAD}.label_head.bias", CLASS_ROWS),
    Line("bbox_embed.layers.0.*", f"{HEAD}.box_head.0.*"),
    Line("bbox_embed.layers.1.*", f"{HEAD}.box_head.2.*"),
    Line("bbox_embed.layers.2.*", f"{HEAD}.box_head.4.*"),
)


def describe(tensors: StateDict) -> dict[str, Any]:
    """The config sections of a DETR on a ResNet, from tensors with densevit's keys.

    Tensor shapes do not determine the number of attention heads, which is 8 in all releases, and the dilation of the
    last stage ("DC5"), which is assumed to be none: override it with `backbone.dilation=true`.
    """
    resnet = find("torchvision-resnet").describe(part(tensors, "backbone."))
    num_queries, width = tensors[f"{HEAD}.query_embedding.weight"].shape
    return {
        "backbone": {**resnet["backbone"], "dilation": False, "norm": "frozen", "frozen_stages": 2},
        "heads": {
            "detection": {
                "name": "detr",
                "num_queries": num_queries,
                "transformer": {
                    "width": width,
                    "num_heads": 8,
                    "encoder_layers": count(tensors, r"heads\.detection\.encoder\.(\d+)\..*"),
                    "decoder_layers": count(tensors, r"heads\.detection\.decoder\.(\d+)\..*"),
                    "feedforward": len(tensors[f"{HEAD}.decoder.0.feedforward.expand.weight"]),
                },
                "positions": "learned" if f"{HEAD}.positions.rows" in tensors else "sine",
                "pre_norm": f"{HEAD}.encoder_norm.weight" in tensors,
            }
        },
    }


def recipe(sections: Mapping[str, Any], classes: Mapping[str, Sequence[Class]]) -> tuple[str, dict[str, Any]]:
    """The recipe of the evaluation on COCO."""
    return "coco/detr_r50", {}


DETR = CheckpointLayout(
    name="detr",
    signature_keys=(
        "backbone.0.body.conv1.weight",
        "transformer.decoder.layers.0.multihead_attn.in_proj_weight",
        "query_embed.weight",
        "class_embed.weight",
        "bbox_embed.layers.0.weight",
    ),
    lines=LINES,
    describe=describe,
    classes=partial(head_classes, bias="class_embed.bias"),
    options=LayoutOptions(unsaved=UNSAVED),
    publishing=Publishing(licences=LICENCES, files=FILES, recipe=recipe),
)
