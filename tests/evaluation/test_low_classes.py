"""The line about classes that are hardly found, with sizes worked out by hand."""

from typing import Any

import numpy as np

from densevit.evaluation.low_classes import low_classes, median_sides
from densevit.interfaces import Class, Dataset

CLASSES = tuple(Class(name, k, (0, 0, 0)) for k, name in enumerate(("cell", "platelet", "none")))


class Cells(Dataset):
    """An image of 100 x 200 (h, w) and one of 400 x 200, with three platelets and a cell."""

    def __init__(self) -> None:
        self.classes = {"detection": CLASSES}

    def __len__(self) -> int:
        return 2

    def sizes(self) -> np.ndarray:
        return np.array([[100, 200], [400, 200]])

    def all_objects(self) -> Any:
        boxes = np.array([[0, 0, 40, 10], [0, 0, 8, 8], [10, 10, 50, 50], [0, 0, 100, 100]], np.float32)
        return np.array([0, 0, 1, 1]), {"boxes": boxes, "labels": np.array([1, 1, 1, 0])}


def half_of_the_second(height: int, width: int) -> tuple[int, int]:
    return (height, width) if height == 100 else (height // 2, width // 2)


def table(*rows: tuple[str, int, float]) -> Any:
    return [["class", "objects", "predictions", "AP"], *([name, count, 9, ap] for name, count, ap in rows)]


def test_median_sides_are_in_pixels_of_the_input():
    # platelets: sqrt(40 * 10) = 20, 8, and 40 / 2 = 20
    assert median_sides(Cells(), half_of_the_second) == {"cell": 50.0, "platelet": 20.0}
    assert median_sides(Cells(), lambda height, width: (height // 4, width // 4)) == {"cell": 25.0, "platelet": 5.0}
    assert median_sides(Dataset(), half_of_the_second) == {}, "not known without reading images"


def test_classes_of_low_ap_are_named():
    rows = table(("cell", 3, 0.009), ("platelet", 76, 0.0), ("none", 0, float("nan")), ("dog", 2, 0.01))
    line = "AP below 0.01, although there are objects: cell (median side 50 px), platelet (median side 20 px); sides in"
    assert low_classes(rows, lambda: {"cell": 50.0, "platelet": 20.0}) == f"{line} the model's input."
    small = low_classes(rows, lambda: {"cell": 50.0, "platelet": 15.4})
    assert "Larger images (data.image_size) help" in small
    assert low_classes(rows, dict) == "AP below 0.01, although there are objects: cell, platelet."


def test_without_classes_of_low_ap_there_is_no_line():
    def fail() -> Any:
        raise AssertionError("not needed")

    assert low_classes(table(("cell", 3, 0.5), ("none", 0, float("nan"))), fail) == ""
    assert low_classes([["class", "pixels", "IoU"], ["cell", 9, 0.0]], fail) == ""
