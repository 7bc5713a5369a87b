"""facebookresearch/detr's panoptic models (Carion et al. 2020, section 4.4): R50, R50-DC5 and R101, for COCO."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from densevit.errors import WeightsError
from densevit.interfaces import Change, CheckpointLayout, Class, Line, StateDict
from densevit.weights.label_sets import coco_panoptic_classes, numbered_classes
from densevit_heads.detr import checkpoints as detector

HEAD = "heads.panoptic"
UNRECORDED = tuple(option.replace(detector.HEAD, HEAD) for option in detector.UNRECORDED)
COCO_ROWS = 251  # of a class head with a row for each file id, 0 ... 249, and "no object" last


def _kept() -> list[int]:
    return [*(one.file_id for one in coco_panoptic_classes()), COCO_ROWS - 1]


def _into_classes(rows: Tensor) -> Tensor:
    return rows[_kept()] if len(rows) == COCO_ROWS else rows


def _back_into_ids(rows: Tensor) -> Tensor:
    if len(rows) != len(coco_panoptic_classes()) + 1:
        return rows
    every = rows.new_full((COCO_ROWS, *rows.shape[1:]), detector.IMPOSSIBLE if rows.ndim == 1 else 0.0)
    return every.index_copy_(0, torch.tensor(_kept(), device=rows.device), rows)


CLASS_ROWS = Change(_into_classes, _back_into_ids)
"""Maps rows by COCO panoptic's file ids, 0 ... 249, to its 133 classes, as `detr`'s layout maps those of 91 ids."""


def detector_lines(lines: Sequence[Line]) -> tuple[Line, ...]:
    """The lines of a detector's layout, whose keys begin with `detr.` in a panoptic model."""
    return tuple(
        Line(
            f"detr.{line.theirs}",
            line.ours.replace(detector.HEAD, HEAD),
            CLASS_ROWS if line.change is detector.CLASS_ROWS else line.change,
        )
        for line in lines
    )


MASK_LINES = (  # also those of transformers' files
    Line("bbox_attention.q_linear.*", f"{HEAD}.attention_maps.query.*"),
    Line("bbox_attention.k_linear.*", f"{HEAD}.attention_maps.key.*"),
    Line("mask_head.lay1.*", f"{HEAD}.mask_head.first.convolution.*"),
    Line("mask_head.gn1.*", f"{HEAD}.mask_head.first.norm.*"),
    *(
        line
        for i in range(4)
        for line in (
            Line(f"mask_head.lay{i + 2}.*", f"{HEAD}.mask_head.blocks.{i}.convolution.*"),
            Line(f"mask_head.gn{i + 2}.*", f"{HEAD}.mask_head.blocks.{i}.norm.*"),
        )
    ),
    *(Line(f"mask_head.adapter{i + 1}.*", f"{HEAD}.mask_head.adapters.{i}.*") for i in range(3)),
    Line("mask_head.out_lay.*", f"{HEAD}.mask_head.output.*"),
)


def describe(ours: StateDict) -> dict[str, Any]:
    """The config sections of a panoptic DETR on a ResNet, from tensors with our keys; see `detr`'s layout."""
    sections = detector.describe({key.replace(HEAD, detector.HEAD): tensor for key, tensor in ours.items()})
    return {**sections, "heads": {"panoptic": {**sections["heads"]["detection"], "name": "detr_panoptic"}}}


def classes_of(rows: int, names: Sequence[str] = ()) -> tuple[Class, ...]:
    """The classes of a class head; its last row is "no object".

    names: of the rows, if known. A head with as many rows as COCO's has COCO's classes; otherwise each row is a class
    with its row as file id, and a thing, since the checkpoint does not tell. Raises WeightsError if a head with as many
    rows as COCO's has other names.
    """
    if rows != COCO_ROWS:
        return numbered_classes(rows - 1, names)
    for one in coco_panoptic_classes():
        if len(names) == rows - 1 and names[one.file_id] not in (one.name, f"LABEL_{one.file_id}"):
            raise WeightsError(
                f"Class {one.file_id} of 250 is called {names[one.file_id]!r}, in COCO panoptic {one.name!r}. A DETR "
                "with 250 other classes cannot be distinguished from COCO's: expected another number of classes."
            )
    return coco_panoptic_classes()


def _classes(state: StateDict, metadata: Mapping[str, Any]) -> dict[str, tuple[Class, ...]]:
    return {"panoptic": classes_of(len(state["detr.class_embed.bias"]), metadata.get("classes", ()))}


DETR_PANOPTIC = CheckpointLayout(
    name="detr-panoptic",
    part="model",
    marks=(
        *(f"detr.{mark}" for mark in detector.DETR.marks),
        "bbox_attention.q_linear.weight",
        "mask_head.lay1.weight",
    ),
    lines=(*detector_lines(detector.LINES), *MASK_LINES),
    describe=describe,
    classes=_classes,
    unrecorded=UNRECORDED,
    saved_under="model",
)
