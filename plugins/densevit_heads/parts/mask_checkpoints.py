"""What checkpoints of mask classification share: the head's key of each task, the classes, and the task of EoMT's and
PMT's, and how both compare with their authors' code."""

from collections.abc import Mapping, Sequence
from typing import Any

from densevit.interfaces import AsAuthors, Class, StateDict
from densevit.layouts import instance_classes, panoptic_classes, segmentation_classes
from densevit.set_prediction.mask_segments import Task

KEYS: dict[Task, str] = {"panoptic": "panoptic", "instance": "detection", "semantic": "segmentation"}
_PREDICTIONS: dict[Task, str] = {
    "panoptic": "equal",
    "instance": "scores are means over masks at the canvas's size, where boxes are read too",
    "semantic": "equal up to a side ratio of 2; three or more windows are not spaced evenly",
}
_CROPS = "an image's crop has one fraction for both axes, as in detectron2"
_SAMPLING: dict[Task, str] = {
    "panoptic": _CROPS,
    "instance": _CROPS,
    "semantic": "factors are relative to the short side, as in SETR, not to the long one",
}
_COCO_THINGS, _SEMANTIC_QUERIES = 80, 100


def classes_of(task: Task, rows: int, names: Sequence[str]) -> dict[str, tuple[Class, ...]]:
    """The classes of `rows` logits, the last of which is "no object"."""
    make = {"panoptic": panoptic_classes, "instance": instance_classes, "semantic": segmentation_classes}[task]
    return {KEYS[task]: make(rows - 1, names)}


def task_classes(state: StateDict, metadata: Mapping[str, Any], task: Task, bias: str) -> dict[str, tuple[Class, ...]]:
    """`CheckpointLayout.classes` of a task. bias: the key of the bias of the class logits."""
    return classes_of(task, len(state[bias]), metadata.get("classes", ()))


def task_of(num_classes: int, num_queries: int) -> Task:
    """The task of an EoMT or a PMT, as published: 80 classes are COCO's objects, 100 queries are semantic
    segmentation."""
    if num_classes == _COCO_THINGS:
        return "instance"
    return "semantic" if num_queries == _SEMANTIC_QUERIES else "panoptic"


def as_authors(task: Task) -> AsAuthors:
    """The comparison of EoMT and PMT, which share their code of everything but the network."""
    return AsAuthors(
        resize="pixels differ by at most 1 of 255 from Pillow's, as for all models",
        padding="equal",
        normalisation="equal",
        predictions=_PREDICTIONS[task],
        losses="equal",
        sampling=_SAMPLING[task],
    )
