"""What checkpoints of mask classification share: the head's key of each task, and the classes."""

from collections.abc import Sequence

from densevit.interfaces import Class
from densevit.layouts import instance_classes, panoptic_classes, segmentation_classes
from densevit.set_prediction.mask_segments import Task

KEYS: dict[Task, str] = {"panoptic": "panoptic", "instance": "detection", "semantic": "segmentation"}


def classes_of(task: Task, rows: int, names: Sequence[str]) -> dict[str, tuple[Class, ...]]:
    """The classes of `rows` logits, the last of which is "no object"."""
    make = {"panoptic": panoptic_classes, "instance": instance_classes, "semantic": segmentation_classes}[task]
    return {KEYS[task]: make(rows - 1, names)}
