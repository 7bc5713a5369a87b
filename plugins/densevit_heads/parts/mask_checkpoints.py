"""What checkpoints of mask classification share: the head's key of each task, the classes, and the task of EoMT's."""

from collections.abc import Mapping, Sequence
from typing import Any

from densevit.interfaces import Class, StateDict
from densevit.layouts import instance_classes, panoptic_classes, segmentation_classes
from densevit.set_prediction.mask_segments import Task

KEYS: dict[Task, str] = {"panoptic": "panoptic", "instance": "detection", "semantic": "segmentation"}
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
