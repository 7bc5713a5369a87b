"""facebookresearch/detr (Carion et al. 2020): complete models: R50, R50-DC5, R101 and R101-DC5, as trained on COCO."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from densevit.errors import WeightsError
from densevit.interfaces import Change, CheckpointLayout, Class, LayoutOptions, Licences, Line, Publishing, StateDict
from densevit.layouts import coco_classes, coco_panoptic_classes, count, find, numbered_classes, part
from densevit_heads.attention_checkpoints import fused_attention

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
_COCO = {91: coco_classes, 250: coco_panoptic_classes}  # by the number of file ids, from 0
IMPOSSIBLE = -1e4  # a logit with probability exactly 0, representable in fp16


def file_ids(num_classes: int) -> int | None:
    """The number of file ids, from 0, of COCO's or COCO panoptic's classes; None for another number of classes."""
    return next((ids for ids, classes in _COCO.items() if len(classes()) == num_classes), None)


def class_rows(no_object: bool, objectness: bool = False) -> Change:
    """Maps the rows of file ids to densevit's classes.

    COCO's ids 0 ... 90 become 80 classes, and COCO panoptic's 0 ... 249 become 133. Layers with another number of rows
    are not changed.

    no_object: whether the last row is "no object". objectness: row 0 tells objects from background, and becomes the row
    of the first class. Rows of ids without a class were trained to be never predicted and are left out: the other
    logits stay equal, and softmax probabilities grow by the tiny share of these rows. The inverse writes zeros with a
    bias of -10000, which has no effect.
    """

    def kept(ids: int) -> list[int]:
        rows = [c.file_id for c in _COCO[ids]()]
        return [0, *rows[1:]] if objectness else [*rows, ids] if no_object else rows

    def forward(rows: Tensor) -> Tensor:
        ids = len(rows) - no_object
        return rows[kept(ids)] if ids in _COCO else rows

    def inverse(rows: Tensor) -> Tensor:
        ids = file_ids(len(rows) - no_object)
        if ids is None:
            return rows
        every = rows.new_full((ids + no_object, *rows.shape[1:]), IMPOSSIBLE if rows.ndim == 1 else 0.0)
        return every.index_copy_(0, torch.tensor(kept(ids), device=rows.device), rows)

    return Change(forward, inverse)


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


def classes_of(rows: int, names: Sequence[str] = ()) -> tuple[Class, ...]:
    """The classes of a class head; its last row is "no object".

    names: the names of the rows, if known. A head with one row per file id of COCO or COCO panoptic gets these classes.
    Otherwise each row is a class with its row as file id, and a thing, because checkpoints do not tell things from
    stuff. Raises WeightsError if a head with as many rows as COCO's has other names.
    """
    ids = rows - 1
    if ids not in _COCO:
        return numbered_classes(ids, names)
    for c in _COCO[ids]():
        if len(names) == ids and names[c.file_id] not in (c.name, f"LABEL_{c.file_id}"):
            raise WeightsError(
                f"Class {c.file_id} of {ids} is called {names[c.file_id]!r}, in COCO "
                f"{'panoptic ' if ids == 250 else ''}{c.name!r}. A DETR with {ids} other classes cannot be "
                "distinguished from COCO's: expected another number of classes."
            )
    return _COCO[ids]()


def head_classes(
    state: StateDict, metadata: Mapping[str, Any], bias: str, head: str = "detection"
) -> dict[str, tuple[Class, ...]]:
    """The classes of a head.

    bias: the key of the bias of the class logits. metadata: `classes`, the names by row, if known.
    """
    return {head: classes_of(len(state[bias]), metadata.get("classes", ()))}


DETR = CheckpointLayout(
    name="detr",
    marks=(
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
