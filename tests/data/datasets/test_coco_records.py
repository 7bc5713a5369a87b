"""densevit/data/datasets/coco_records.py: masks that lie outside of their boxes, with the likely cause."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pycocotools import mask as rle

from densevit.data.datasets.coco_dataset import Coco
from densevit.data.datasets.coco_records import lacks_mask
from densevit.data.datasets.coco_segmentations import pack, packed_segmentation
from densevit.errors import DataError
from tests.data.coco_folder import noise, write_split
from tests.data.datasets.conftest import opened

HEIGHT, WIDTH = 60, 60
BOXES = [(4, 30, 10, 20), (40, 2, 16, 8), (10, 45, 5, 9), (30, 12, 20, 6)]  # x, y, width, height


def polygon(x: float, y: float, width: float, height: float) -> list[float]:
    return [x, y, x + width, y, x + width, y + height, x, y + height]


def as_polygons(x: float, y: float, width: float, height: float) -> Any:
    """Two polygons, whose bounds are the box together."""
    return [polygon(x, y, width, height / 2), polygon(x + width / 2, y, width / 2, height)]


def as_lengths(x: int, y: int, width: int, height: int) -> Any:
    pixels = np.zeros((HEIGHT, WIDTH), bool)
    pixels[y : y + height, x : x + width] = True
    columns = pixels.ravel(order="F")
    changes = np.flatnonzero(np.diff(columns)) + 1
    return {"size": [HEIGHT, WIDTH], "counts": np.diff([0, *changes, columns.size]).tolist()}


def as_code(x: int, y: int, width: int, height: int) -> Any:
    encoded = rle.frPyObjects(as_lengths(x, y, width, height), HEIGHT, WIDTH)
    return {"size": [HEIGHT, WIDTH], "counts": encoded["counts"].decode()}


def exchanged(x: int, y: int, width: int, height: int) -> tuple[int, int, int, int]:
    return y, x, height, width


def relative(x: int, y: int, width: int, height: int) -> tuple[float, ...]:
    return x / WIDTH, y / HEIGHT, width / WIDTH, height / HEIGHT


def elsewhere(x: int, y: int, width: int, height: int) -> tuple[int, int, int, int]:
    return WIDTH - width - x // 4, HEIGHT - height - y // 4, width, height


def coco(root: Path, segmentations: list[Any], masks: bool = True, crowds: int = 0) -> Coco:
    annotations = [
        {"image_id": i % 2, "category_id": 1, "bbox": [*box], "segmentation": segmentation, "iscrowd": int(i < crowds)}
        for i, (box, segmentation) in enumerate(zip(BOXES, segmentations, strict=True))
    ]
    write_split(root, "train", [noise(i, HEIGHT, WIDTH) for i in range(2)], annotations)
    write_split(root, "val", [noise(2, HEIGHT, WIDTH)], [])
    return opened(Coco, "train", root=str(root), masks=masks)


def test_a_rotated_box_is_its_own_mask() -> None:
    assert lacks_mask({"segmentation": []}) and not lacks_mask({"segmentation": [[1, 1, 4, 1, 4, 4]]})
    assert not lacks_mask({"bbox": [1, 1, 4, 4], "attributes": {"rotation": 30.0}})


def test_bounds_are_those_of_polygons_and_codes():
    written = [as_polygons(*BOXES[0]), as_code(*BOXES[1]), [polygon(*BOXES[2])], as_lengths(*BOXES[3])]
    empty = {"size": [HEIGHT, WIDTH], "counts": [HEIGHT * WIDTH]}
    segmentations = pack([packed_segmentation(one, (HEIGHT, WIDTH)) for one in [*written, empty]])
    assert segmentations.bounds().tolist() == [[x, y, x + w, y + h] for x, y, w, h in BOXES] + [[0, 0, 0, 0]]
    assert pack([]).bounds().shape == (0, 4)


@pytest.mark.parametrize("form", [as_polygons, as_lengths, as_code])
@pytest.mark.parametrize(("change", "cause"), [(exchanged, "x and y look exchanged"), (elsewhere, "other objects")])
def test_most_masks_outside_of_their_boxes_are_an_error(form: Callable, change: Callable, cause: str, tmp_path: Path):
    with pytest.raises(DataError, match=rf"4 of 4 masks lie outside of their bbox; .*{cause}"):
        coco(tmp_path, [form(*change(*box)) for box in BOXES])
    assert len(coco(tmp_path, [form(*change(*box)) for box in BOXES], masks=False)) == 2
    right = [form(*box) for box in BOXES]
    assert len(coco(tmp_path, [form(*change(*BOXES[0])), *right[1:]])) == 2


def test_relative_polygons_are_named(tmp_path: Path):
    with pytest.raises(DataError, match="4 of 4 masks lie outside of their bbox; they lie within 0 ... 1. Fix: multip"):
        coco(tmp_path, [as_polygons(*relative(*box)) for box in BOXES])


def test_crowds_do_not_count(tmp_path: Path):
    segmentations = [*(as_polygons(*elsewhere(*box)) for box in BOXES[:3]), as_polygons(*BOXES[3])]
    with pytest.raises(DataError, match="3 of 4 masks"):
        coco(tmp_path, segmentations)
    with pytest.warns(UserWarning, match="iscrowd"):
        coco(tmp_path, segmentations, crowds=3)
