"""Copy-paste: pixels, masks, boxes and maps, worked by hand."""

from typing import Any, ClassVar

import numpy as np
import pytest
import torch

import densevit
from densevit.data.transforms.copy_paste import CopyPaste, pasted
from densevit.errors import ConfigError
from densevit.interfaces import Sample
from densevit.targets import RunLengthMasks, TargetTypes, ValueMap
from tests.counted_dataset import CountedDataset


class All(np.random.Generator):
    """Chooses all objects."""

    def __init__(self) -> None:
        super().__init__(np.random.PCG64(0))

    def integers(self, low: Any, *others: Any, **options: Any) -> Any:
        return low - 1


def sample(size: tuple[int, int], windows: list[tuple[int, int, int, int]], shade: int) -> Sample:
    """Rectangular objects (top, left, bottom, right), later ones on top; panoptic things of the classes 1, 2, ..."""
    masks = np.zeros((len(windows), *size), bool)
    panoptic = np.zeros(size, np.int32)  # stuff of class 0
    for n, (top, left, bottom, right) in enumerate(windows):
        masks[:, top:bottom, left:right] = False
        masks[n, top:bottom, left:right] = True
        panoptic[top:bottom, left:right] = (n + 1) * 1000 + 1
    targets = {
        "image_id": shade,
        "size": size,
        "original_size": size,
        "boxes": torch.tensor([(x0, y0, x1, y1) for y0, x0, y1, x1 in windows], dtype=torch.float32).reshape(-1, 4),
        "labels": torch.arange(len(windows)) + 1,
        "masks": RunLengthMasks.from_dense(masks, size),
        "semantic": torch.from_numpy((panoptic // 1000).astype(np.uint8)),
        "panoptic": torch.from_numpy(panoptic),
        "panoptic_crowds": [],
    }
    return {"image": torch.full((3, *size), shade, dtype=torch.uint8), "targets": targets}


def test_pasted_objects_take_pixels_of_image_masks_boxes_and_maps():
    first = sample((6, 8), [(0, 0, 4, 4), (4, 6, 6, 8)], 10)
    result = pasted(first, sample((6, 8), [(2, 0, 6, 4), (0, 5, 1, 7)], 20), TargetTypes(), All())
    targets = result["targets"]
    assert targets["boxes"].tolist() == [[0, 0, 4, 2], [6, 4, 8, 6], [0, 2, 4, 6], [5, 0, 7, 1]]
    assert targets["labels"].tolist() == [1, 2, 1, 2]
    rows = ["aaaa cc ", "aaaa    ", "bbbb    ", "bbbb    ", "bbbb  dd", "bbbb  dd"]
    letters = np.array([list(row) for row in rows])
    np.testing.assert_array_equal(np.asarray(targets["masks"]), [letters == name for name in "adbc"])
    new = (letters == "b") | (letters == "c")
    np.testing.assert_array_equal(result["image"], np.broadcast_to(np.where(new, 20, 10), (3, 6, 8)))
    names = {" ": 0, "a": 1001, "d": 2001, "b": 1999, "c": 2999}  # new instances of the classes 1 and 2
    np.testing.assert_array_equal(targets["panoptic"], np.vectorize(names.get)(letters))
    np.testing.assert_array_equal(targets["semantic"], np.vectorize(names.get)(letters) // 1000)
    assert targets["image_id"] == 10 and first["image"].eq(10).all()


@pytest.mark.parametrize(("right", "kept"), [(25, False), (24, True)])  # 70 and 80 pixels of the mask are left
def test_object_with_almost_nothing_left_is_dropped_as_in_mmdetection(right, kept):
    """The limit is 300 pixels at 1024 x 1024, 75 here."""
    first, second = (sample((512, 512), [window], 10) for window in [(0, 0, 10, 32), (0, 0, 10, right)])
    count = len(pasted(first, second, TargetTypes(), All())["targets"]["labels"]) - 1
    assert count == kept
    # 35 pixels of a small object are left, whose box moves by 5, or 10 at 1024 x 1024: it is kept
    first, second = (sample((512, 512), [window], 10) for window in [(0, 0, 7, 10), (0, 0, 7, 5)])
    targets = pasted(first, second, TargetTypes(), All())["targets"]
    assert targets["boxes"].tolist() == [[5, 0, 10, 7], [0, 0, 5, 7]]


def test_objects_outside_of_a_smaller_image_are_cut_off():
    first, second = sample((4, 9), [(0, 0, 2, 2)], 10), sample((8, 6), [(2, 3, 8, 6), (5, 0, 8, 3)], 20)
    result = pasted(first, second, TargetTypes(), All())
    assert result["targets"]["boxes"].tolist() == [[0, 0, 2, 2], [3, 2, 6, 4]]
    assert result["targets"]["masks"].shape == (2, 4, 9) and result["image"].shape == (3, 4, 9)
    assert (result["image"] == 20).sum() == 3 * 6


class Shapes(CountedDataset):
    """Images with squares; the second object of each is a crowd."""

    provides: Any = ("boxes", "labels", "masks")
    length = 40
    classes: ClassVar = {"detection": (densevit.Class("square", 1, (9, 9, 9)),)}

    def __getitem__(self, index: int) -> Sample:
        one = sample((40, 50), [(index % 9, 5, index % 9 + 12, 20), (20, 20, 40, 45)], index + 1)
        targets = {key: one["targets"][key] for key in ("boxes", "masks", "image_id")}
        objects = {"labels": torch.tensor([0, 0]), "iscrowd": torch.tensor([False, True])}
        return {"image": one["image"], "targets": targets | objects}


@pytest.mark.parametrize(
    ("provides", "message"),
    [
        (("boxes", "labels"), "this data set labels boxes, labels. Fix: let it read instance masks"),
        (("boxes", "labels", "masks", "depth"), "cannot be used with the target 'depth'.*`data.depth: false`"),
        ({"masks": None, "heat": ValueMap()}, "cannot be used with the target 'heat': ValueMap"),
    ],
)
def test_data_that_cannot_be_pasted_are_named(provides, message):
    dataset = Shapes()
    dataset.provides = provides
    with pytest.raises(ConfigError, match=message):
        CopyPaste(lambda sample, rng, types: sample, dataset, 0.5)
