"""Reports unusual annotations of a COCO json that training accepts, for `densevit doctor`."""

from collections.abc import Sequence
from typing import Literal

import numpy as np

from densevit.data.datasets.coco_annotations import Annotations
from densevit.data.datasets.coco_inventory import crowd_note
from densevit.data.datasets.coco_orientation import Reading
from densevit.data.datasets.examination import EXAMPLES, Examination, Severity

_MARGIN = 1.0  # pixels; a box that is farther outside is not a rounding error


def examine_annotations(read: Annotations, examination: Examination, ambiguous: bool = False) -> None:
    """Reports images with several entries, and boxes that are degenerate, outside of their image, or duplicates.

    Crowds are left out: they are neither trained on nor counted. ambiguous: whether boxes may be on the upright or on
    the stored image (see `coco_orientation`): those outside are outside of both.
    """
    names, counts = np.unique(read.file_names, return_counts=True)
    twice = [f"{names[i].decode()}: {counts[i]} entries" for i in np.flatnonzero(counts > 1)]
    fix = "Merge their annotations into one entry: now each entry trains the objects of the others as background."
    examination.report("warning", "image files with several entries", twice, fix, of=len(read))
    if not len(read.boxes):
        return
    rows, limits = read.images, read.limits()
    if ambiguous:
        limits = np.tile(limits.max(axis=1, keepdims=True), 2)
    low, high = read.boxes[:, :2], read.boxes[:, 2:]
    flat = (high <= low).any(axis=1) & ~read.iscrowd
    away = ~flat & ~read.iscrowd & ((np.clip(high, 0, limits) <= np.clip(low, 0, limits)).any(axis=1))
    partly = ~flat & ~away & ~read.iscrowd & ((low < -_MARGIN) | (high > limits + _MARGIN)).any(axis=1)

    def report(title: str, fix: str, found: np.ndarray, severity: Severity = "warning") -> None:
        def example(i: int) -> str:
            size = "" if np.isinf(limits[i]).any() else f" of {limits[i, 0]:.0f} x {limits[i, 1]:.0f}"
            box = ", ".join(f"{number:g}" for number in (*low[i], *(high[i] - low[i])))
            return f"annotation {read.ids[i]} of image {read.file_names[rows[i]].decode()}{size}: [{box}]"

        examples = [example(i) for i in found[:EXAMPLES].tolist()]
        examination.report(severity, title, examples, fix, len(found), len(rows))

    out = "They are left out in training, and missed in evaluation."
    report("boxes without area", f"{out} Correct or remove them.", np.flatnonzero(flat))
    report(
        "boxes outside of their image",
        f"{out} Were images resized, or width and height exchanged?",
        np.flatnonzero(away),
    )
    fix = "They are clipped in training. Were images resized? Or are boxes x1, y1, x2, y2 instead of x, y, w, h?"
    report("boxes partly outside of their image", fix, np.flatnonzero(partly))
    table = np.column_stack([read.iscrowd, rows, read.labels, read.boxes])
    order = np.lexsort(table.T[::-1])
    doubled = np.sort(order[1:][(table[order[1:]] == table[order[:-1]]).all(axis=1)])
    doubled = doubled[~read.iscrowd[doubled]]
    fix = "Remove all but one: each is an object for the loss, and in evaluation all but one are missed."
    report("duplicate boxes (same image, class and box)", fix, doubled)
    if len(rows) > 1 and (high <= 1 + 1e-6).all():
        fix = "Multiply them by the images' width and height: COCO's boxes are in pixels."
        report("boxes within 0 ... 1, as if relative to the image", fix, np.arange(len(rows)), "error")


def examine_reading(reading: Reading, names: Sequence[str], images: int, examination: Examination) -> None:
    """Reports photos whose boxes may be on the upright or on the stored image. names: of their files."""
    severity: Severity = "error" if not reading.decided else "warning" if reading.text else "note"
    fix = reading.text or f"data.boxes={reading.grid} is set."
    title = "images whose boxes may be on the upright image or on the stored pixels (EXIF)"
    examination.report(severity, title, names, fix, of=images)


def examine_crowds(
    read: Annotations, iscrowd: np.ndarray, crowds: Literal["ignore", "objects"] | None, examination: Examination
) -> None:
    """Reports objects with `iscrowd` 1, (M,) bool as in the json, and images that have no other objects."""
    found = np.flatnonzero(iscrowd)
    note = crowd_note(iscrowd)
    fix = "They are used as objects (data.crowds=objects)."
    if crowds != "objects":
        fix = note or "They are not trained on, and not counted in AP (COCO's rule)."
    examples = [
        f"annotation {read.ids[i]} of image {read.file_names[read.images[i]].decode()}" for i in found[:EXAMPLES]
    ]
    severity: Severity = "warning" if note and crowds is None else "note"
    examination.report(severity, "objects with iscrowd 1", examples, fix, len(found), len(iscrowd))
    if crowds != "objects":
        only = np.flatnonzero(
            np.bincount(read.images, iscrowd, len(read)) * (np.bincount(read.images, ~iscrowd, len(read)) == 0)
        )
        names = [read.file_names[i].decode() for i in only.tolist()]
        fix = "They train as background; in evaluation, detections inside of the crowds do not count."
        examination.report("note", "images whose objects are all crowds", names, fix, of=len(read))
