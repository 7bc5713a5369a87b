"""What checkpoints of detectors with queries share: classes, rows of classes, and keys of layers."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from densevit.errors import WeightsError
from densevit.interfaces import Change, Class, Line, StateDict
from densevit.layouts import coco_classes, coco_panoptic_classes, instance_classes, numbered_classes

_COCO = {91: coco_classes, 250: coco_panoptic_classes}  # by the number of file ids, from 0
IMPOSSIBLE = -1e4  # a logit with probability exactly 0, representable in fp16
FILE, _MEMORY = "model.backbone.conv_encoder.model.", "model.backbone.model."  # of transformers
_ENCODER, _DECODER = "model.encoder.layers.{i}", "model.decoder.layers.{i}"
BLACK, WHITE = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)  # mean and std: images are in 0 ... 1

# Checkpoints have a last row for padding queries, untrained zeros, which densevit's models lack.
LABELS = Change(lambda rows: rows[:-1], lambda rows: torch.cat([rows, torch.zeros_like(rows[:1])]))

MASK_PARTS = {  # of the mask branch, by the authors' names
    "blocks.{i}.dwconv": "blocks.{i}.depthwise", "blocks.{i}.norm": "blocks.{i}.norm",
    "blocks.{i}.pwconv1": "blocks.{i}.pointwise", "spatial_features_proj": "pixel_project",
    "query_features_block.norm_in": "query_norm", "query_features_block.layers.0": "query_ffn.expand",
    "query_features_block.layers.2": "query_ffn.contract", "query_features_proj": "query_project",
}  # fmt: skip

# ---- classes ----


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


def detection_classes(state: StateDict, metadata: Mapping[str, Any], bias: str) -> dict[str, tuple[Class, ...]]:
    """The classes of a class head; 80 rows are COCO's classes. bias: key of the head's bias."""
    return {"detection": instance_classes(len(state[bias]), metadata.get("classes", ()))}


def id2label(classes: Sequence[Class]) -> dict[str, dict[str, str]]:
    """The names by row for config.json, if rows are COCO's file ids; else {}."""
    rows, names = file_ids(len(classes)), {c.file_id: c.name for c in classes}
    return {} if rows is None else {"id2label": {str(row): names.get(row, "N/A") for row in range(rows)}}


# ---- keys and options ----


def memory(*attentions: str) -> tuple[tuple[str, str], ...]:
    """Pairs of a model's keys in version 5 and a file's keys. attentions: the layers with an output projection
    `o_proj`."""
    return (
        (f"{_MEMORY}*", f"{FILE}*"),
        *((f"{source}.o_proj.*", f"{source}.out_proj.*") for source in attentions),
        *((f"{layer}.mlp.fc{i}.*", f"{layer}.fc{i}.*") for layer in (_ENCODER, _DECODER) for i in (1, 2)),
    )


def shared_count(config: Mapping[str, Any], key: str, usual: int, option: str) -> dict[str, int]:
    """The option from config.json if encoder and decoder have the same number, else {}.

    usual: transformers' default.
    """
    counts = {config.get(f"{part}_{key}", usual) for part in ("encoder", "decoder")}
    return {option: counts.pop()} if len(counts) == 1 else {}


def layer_sizes(transformer: Mapping[str, Any], **both: Any) -> dict[str, Any]:
    """The keys of config.json with the sizes of encoder and decoder. transformer: the section of the head. both: keys
    without `encoder_` or `decoder_`, whose values are those of both."""
    return {
        f"{part}_{key}": value
        for part in ("encoder", "decoder")
        for key, value in {"layers": transformer[f"{part}_layers"], **both}.items()
    }


def mlp(source: str, target: str, num_layers: int = 3) -> tuple[Line, ...]:
    """Maps the keys of a multilayer perceptron."""
    return tuple(Line(f"{source}.layers.{i}.*", f"{target}.{2 * i}.*") for i in range(num_layers))


def points_and_scale(state: StateDict, metadata: Mapping[str, Any], points: str, scale: str) -> dict[str, Any]:
    """`num_points` from the buffer with 1 / points for each point, and `reg_scale`. points, scale: the keys."""
    options: dict[str, Any] = {}
    if points in state:
        counts, left = [], [round(1 / x) for x in state[points].tolist()]
        while left:
            counts.append(left[0])
            left = left[left[0] :]
        options["heads.detection.num_points"] = tuple(counts)
    if scale in state:
        options["heads.detection.reg_scale"] = float(state[scale])
    return options
