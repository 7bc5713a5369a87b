"""Examines the polygons and masks of a COCO json, also for a run on boxes."""

from densevit.data.datasets.coco_annotations import Annotations, read_annotations
from densevit.data.datasets.coco_dataset import Coco
from densevit.data.datasets.coco_geometry import MISPLACED, misplaced_masks
from densevit.errors import DataError
from densevit_workbench.doctor.findings import Findings, Severity


def with_masks(dataset: Coco) -> Annotations | None:
    """The annotations with a polygon or mask; None if none has one, or a mask is invalid, without which boxes train."""
    try:
        annotations = read_annotations(dataset.file, masks=True, boxes_as_masks=False)
    except DataError:
        return None
    return annotations if len(annotations.boxes) else None


def all_have_masks(dataset: Coco) -> bool:
    """Whether each object of the data set's json has a valid polygon or mask."""
    annotations = with_masks(dataset)
    return annotations is not None and len(annotations.boxes) >= len(read_annotations(dataset.file).boxes)


def examine_masks(read: Annotations | None, findings: Findings) -> None:
    """Reports masks that lie outside of their boxes."""
    if read is None or read.segmentations is None:
        return
    wrong, count, message = misplaced_masks(read, read.segmentations.bounds())
    if len(wrong):
        names = read.file_names[read.images]
        places = [f"annotation {read.ids[i]} of image {names[i].decode()}" for i in wrong[:3].tolist()]
        severity: Severity = "error" if 2 * len(wrong) > count else "warning"
        findings.report(severity, MISPLACED, [message, *places], "", len(wrong), count)
