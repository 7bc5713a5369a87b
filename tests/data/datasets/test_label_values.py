"""densevit/data/datasets/label_values.py: values and colours become classes; labels in a wrong form."""

from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

from densevit.data.datasets.depth_maps import DepthMaps
from densevit.data.datasets.label_maps import LabelMaps
from densevit.data.datasets.label_values import Ignored
from densevit.data.datasets.paired_dataset import PairedDataset
from densevit.errors import DataError
from densevit.interfaces import IGNORE
from tests.data.datasets.conftest import LABEL, opened, semantic

VALUES = [0, 90, 200]
COLORS = [(0, 0, 0), (128, 64, 128), (70, 130, 180)]
BY_VALUE = [{"name": f"class {value}", "id": value} for value in VALUES]
BY_COLOR = [{"name": f"class {color}", "color": list(color)} for color in COLORS]


def indices() -> np.ndarray:
    """(64, 96) class indices: two discs on a background."""
    y, x = np.mgrid[:64, :96]
    disc = (y - 32) ** 2 + (x - 30) ** 2 < 400
    return np.where(disc, 1, np.where((y - 30) ** 2 + (x - 70) ** 2 < 300, 2, 0))


def as_jpeg(values: np.ndarray) -> np.ndarray:
    return cv2.imdecode(cv2.imencode(".jpg", values, [cv2.IMWRITE_JPEG_QUALITY, 90])[1], cv2.IMREAD_UNCHANGED)


def interpolated(values: np.ndarray) -> np.ndarray:
    small = np.ascontiguousarray(values[::2, ::2])
    return cv2.resize(small, values.shape[1::-1], interpolation=cv2.INTER_LINEAR)


@pytest.mark.parametrize(
    ("change", "table", "classes"),
    [(as_jpeg, VALUES, BY_VALUE), (interpolated, VALUES, BY_VALUE), (interpolated, COLORS, BY_COLOR)],
)
def test_values_at_edges_are_from_jpeg_or_interpolation(change: Any, table: Any, classes: Any, label, write_image):
    values = np.array(table, np.uint8)[indices()]
    path = label("labels/train/a.png", values)
    write_image("images/train/a.jpg", (96, 64))
    assert len(opened(LabelMaps, "train", root=str(path.parents[2]), classes=classes)) == 1
    Image.fromarray(change(values)).save(path)
    with pytest.raises(DataError, match="at edges.*saved as JPEG or resized with interpolation. Fix: save them again"):
        opened(LabelMaps, "train", root=str(path.parents[2]), classes=classes)
    label("labels/train/a.png", values)
    with pytest.raises(DataError, match="that no class has: .*Add each to a class"):  # areas are classes
        opened(LabelMaps, "train", root=str(path.parents[2]), classes=classes[:1])


@pytest.mark.parametrize("kind", PairedDataset.__subclasses__(), ids=lambda kind: kind.__name__)
def test_jpeg_labels_are_named_with_their_reason(kind: type[PairedDataset], write_image):
    options = {"classes": ["floor", "wall"]} if kind is LabelMaps else {}
    root = write_image("images/train/a.jpg").parents[2]
    write_image("labels/train/a.jpg")
    with pytest.raises(DataError, match="Its 1 JPEG file cannot be labels: its compression changes the values. Fix: "):
        opened(kind, "train", root=str(root), **options)


def test_depth_of_8_bits_with_a_scale_for_16(depth_pair):
    root = depth_pair(np.array([[0, 90, 255]], np.uint8)).parents[2]
    with pytest.raises(
        DataError, match=r"a\.png has 8 bits.*0\.255 m with data\.scale=0\.001.*Fix: .*0\.0392 for 10 m"
    ):
        opened(DepthMaps, "train", root=str(root), scale=0.001)
    assert len(opened(DepthMaps, "train", root=str(root), scale=10 / 255)) == 1
    assert len(opened(DepthMaps, "train", root=str(root), scale=0.001, depth_range=[0.01, 0.255])) == 1
    depth_pair(np.array([[0, 90, 255]], np.uint16))
    assert len(opened(DepthMaps, "train", root=str(root), scale=0.001)) == 1


MAPPED: dict[str, tuple[np.ndarray, dict[str, Any], list[int], list[list[int]]]] = {
    # label, options, ids of the classes, label map
    "16 bits, several values of a class": (
        np.array([[1000, 7, 0, 9]] * 3, np.uint16),
        {"classes": [{"name": "road", "ids": [7, 9]}, {"name": "tree", "id": 1000}], "ignore": Ignored(0)},
        [7, 1000],
        [[1, 0, IGNORE, 0]] * 3,
    ),
    "0 ignored, counted from 1": (
        LABEL,
        {"classes": ["tree", "car"], "ignore": Ignored(zero=True)},
        [1, 2],
        [[255, 255, 0, 0], [1, 1, 0, 255], [1, 255, 255, 0]],
    ),
}


@pytest.mark.parametrize("case", MAPPED)
def test_values_become_classes(case, tmp_path, pairs):
    values, options, ids, expected = MAPPED[case]
    pairs(values)
    dataset = opened(LabelMaps, "train", root=str(tmp_path), **options)
    assert [c.file_id for c in dataset.classes["segmentation"]] == ids and semantic(dataset) == expected


def test_several_colours_may_map_to_one_class(tmp_path, pairs):
    palette = np.array([[128, 64, 128], [0, 0, 1], [1, 0, 0]], np.uint8)
    pairs(np.where((LABEL == 255)[..., None], [9, 9, 9], palette[LABEL % 255]).astype(np.uint8))
    classes = [{"name": "road", "color": [128, 64, 128]}, {"name": "rest", "colors": [[0, 0, 1], [1, 0, 0]]}]
    dataset = opened(LabelMaps, "train", root=str(tmp_path), classes=classes, ignore=Ignored(colors=[(9, 9, 9)]))
    assert semantic(dataset) == [[0, 0, 1, 1], [1, 1, 1, 255], [1, 0, 0, 1]]
    assert dataset.classes["segmentation"][1].color == (0, 0, 1)
