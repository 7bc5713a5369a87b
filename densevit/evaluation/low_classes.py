"""Notes on the metrics of classes: very low AP, and label maps of a single class."""

from collections.abc import Callable, Mapping
from typing import Protocol, runtime_checkable

import numpy as np

from densevit.errors import counted
from densevit.interfaces import Dataset, Size, Table

LOW = 0.01  # AP
SMALL = 16.0  # pixels of the model's input
_LISTED = 10  # classes


@runtime_checkable
class SupportsAllObjects(Protocol):
    """A data set that knows its objects without reading images, for notes on small objects and `densevit doctor`."""

    def all_objects(self) -> tuple[np.ndarray, dict[str, np.ndarray]] | None:
        """The image index of each object (M,), and the values of all objects (M, ...) by target key; None: unknown."""


def all_objects(dataset: Dataset) -> tuple[np.ndarray, dict[str, np.ndarray]] | None:
    """The objects of a data set, see `SupportsAllObjects`; None if they are not known without reading images."""
    return dataset.all_objects() if isinstance(dataset, SupportsAllObjects) else None


def median_sides(dataset: Dataset, size_of: Callable[[int, int], Size]) -> dict[str, float]:
    """The median side of the objects of each class, see `object_sides`, by class name. Empty if they are not known."""
    known = object_sides(dataset, size_of)
    if known is None:
        return {}
    sides, labels = known
    classes = enumerate(dataset.classes.get("detection", ()))
    return {one.name: float(np.median(sides[labels == k])) for k, one in classes if (labels == k).any()}


def object_sides(dataset: Dataset, size_of: Callable[[int, int], Size]) -> tuple[np.ndarray, np.ndarray] | None:
    """The sides of all objects in pixels of the model's input (M,), and their labels (M,).

    The side is the square root of the box's area. size_of: the size (h, w) to which an image is resized. Returns None
    for a data set that does not know its boxes and sizes without reading images.
    """
    known, sizes = all_objects(dataset), dataset.sizes()
    if known is None or sizes is None or not {"boxes", "labels"} <= known[1].keys():
        return None
    images, boxes, labels = known[0], known[1]["boxes"].astype(np.float64), known[1]["labels"]
    different, place = np.unique(sizes, axis=0, return_inverse=True)
    resized = np.array([size_of(height, width) for height, width in different.tolist()]).reshape(-1, 2)
    scales = resized / different
    scale = scales.prod(axis=1)[place.ravel()[images]]  # (M,) of the area
    return np.sqrt((boxes[:, 2:] - boxes[:, :2]).prod(axis=1) * scale), labels


def single_class(metrics: Mapping[str, float]) -> str:
    """One line about the metrics of a head (see `SemanticSegmentation`) if only one of several classes has pixels in
    the ground truth; else empty."""
    ious, recalls = ({name: metrics[name] for name in metrics if name.startswith(kind)} for kind in ("IoU/", "Acc/"))
    present = [name.removeprefix("Acc/") for name, value in recalls.items() if value == value]
    if "mIoU" not in metrics or len(recalls) < 2 or len(present) != 1:
        return ""
    others = sum(value == value for value in ious.values()) - 1
    only = f"{counted(others, 'class')} that {'are' if others > 1 else 'is'} only predicted"
    mean = f"the mean of its IoU and 0 for {only}" if others else "its IoU"
    return (
        f"Only one of {len(recalls)} classes has pixels in the ground truth, {present[0]!r}: mIoU is {mean}, and says "
        "nothing about the others."
    )


def low_classes(table: Table, sides: Callable[[], Mapping[str, float]]) -> str:
    """One line about the classes of a table of AP (see `class_table`) that have objects and an AP below 0.01; empty if
    there are none.

    sides: returns the median side of the objects of each class, as far as known; only called if there are such classes.
    """
    header, *rows = table
    if not {"objects", "AP"} <= set(header):
        return ""
    objects, ap = header.index("objects"), header.index("AP")
    low = [str(row[0]) for row in rows if int(row[objects]) and float(row[ap]) < LOW]
    if not low:
        return ""
    known = sides()
    named = [f"{name} (median side {known[name]:.0f} px)" if name in known else name for name in low]
    more = f", ... ({len(low)})" if len(low) > _LISTED else ""
    unit = "; sides in the model's input" if known.keys() & set(low) else ""
    small = any(known[name] < SMALL for name in low if name in known)
    hint = " Larger images (data.image_size) help for small objects." if small else ""
    return f"AP below {LOW:g}, although there are objects: {', '.join(named[:_LISTED])}{more}{unit}.{hint}"
