"""Mosaic, and MixUp of objects: every output pixel names its image and place, from which labels are looked up."""

from typing import Any

import numpy as np
import pytest
import torch

from densevit.config import DataSection
from densevit.data.data_splits import DataSplits
from densevit.data.transforms.copy_paste import pasted
from densevit.data.transforms.mosaic import mosaic
from densevit.interfaces import Class, Sample, Size
from densevit.targets import RunLengthMasks, TargetTypes

SIZES = [(40, 60), (50, 44), (18, 70), (40, 60)]  # the third is smaller than the largest quadrants


def traced(number: int, size: Size) -> Sample:
    """An image whose pixels are (number + 1, row, column), with six rectangular objects that may overlap."""
    rng = np.random.default_rng(number)
    rows, columns = np.indices(size)
    corners = (np.sort(rng.integers(0, side - 1, (6, 2)), axis=1) for side in size)
    (top, bottom), (left, right) = ((c + np.array([0, 1])).T[:, :, None, None] for c in corners)
    masks = (rows >= top) & (rows < bottom) & (columns >= left) & (columns < right)
    boxes = np.stack([left, top, right, bottom], 1).reshape(6, 4).astype(np.float32)
    targets = {
        "image_id": number,
        "size": size,
        "original_size": size,
        "boxes": torch.from_numpy(boxes),
        "labels": torch.arange(6) + 10 * number,
        "masks": RunLengthMasks.from_dense(masks, size),
        "semantic": torch.from_numpy(rng.integers(0, 200, size).astype(np.uint8)),
    }
    pixels = np.stack([np.full(size, number + 1), rows, columns]).astype(np.uint8)
    return {"image": torch.from_numpy(pixels), "targets": targets}


@pytest.mark.parametrize("seed", range(3))
def test_labels_of_a_mosaic_are_those_of_the_pixels_that_it_shows(seed):
    samples = [traced(number, size) for number, size in enumerate(SIZES)]
    result = mosaic(samples, TargetTypes(), np.random.default_rng(seed))
    source, row, column = result["image"].numpy().astype(int)
    targets = result["targets"]
    assert source.shape == SIZES[0] and {1, 2, 3, 4} <= set(np.unique(source)) <= {0, 1, 2, 3, 4}
    for corner, number in (((0, 0), 1), ((0, -1), 2), ((-1, 0), 3), ((-1, -1), 4)):  # each in its quadrant, or black
        assert source[corner] in (0, number)
    semantic = np.full(SIZES[0], 255)
    expected: dict[int, tuple[np.ndarray, list[float]]] = {}  # mask and box by label
    for number, sample in enumerate(samples):
        here = source == number + 1
        semantic[here] = sample["targets"]["semantic"].numpy()[row[here], column[here]]
        masks = np.asarray(sample["targets"]["masks"])
        for label, mask in zip(sample["targets"]["labels"].tolist(), masks, strict=True):
            shown = np.zeros(SIZES[0], bool)
            shown[here] = mask[row[here], column[here]]
            if shown.sum() >= 0.2 * mask.sum():  # rectangles fill their boxes
                rows, columns = np.nonzero(shown)
                expected[label] = (shown, [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])
    np.testing.assert_array_equal(targets["semantic"], semantic)
    assert targets["labels"].tolist() == list(expected) and len(expected) > 4
    np.testing.assert_array_equal(np.asarray(targets["masks"]), [mask for mask, _ in expected.values()])
    np.testing.assert_allclose(targets["boxes"], [box for _, box in expected.values()], atol=1e-4)
    assert targets["boxes"].dtype == torch.float32 and isinstance(targets["masks"], RunLengthMasks)
    assert targets["size"] == SIZES[0] and targets["image_id"] == 0


CLASSES = {"panoptic": (Class("person", 1, (1, 1, 1)), Class("sky", 2, (2, 2, 2), thing=False))}


def panoptic_sample(things: list[int]) -> Sample:
    """Sky above a crowd of persons, in which persons stand in a row: `things` are their panoptic ids."""
    panoptic = np.full((64, 64), 1000, np.int32)  # sky has the number 0
    panoptic[32:] = 7
    for n, one in enumerate(things):
        left = 29 - 5 * len(things) + 10 * n
        panoptic[40:48, left : left + 8] = one
    masks = RunLengthMasks.from_ids(panoptic, np.array(things))
    targets = {
        "image_id": 1,
        "size": (64, 64),
        "original_size": (64, 64),
        "panoptic": torch.from_numpy(panoptic),
        "panoptic_crowds": [7],
        "boxes": torch.from_numpy(masks.boxes()),
        "masks": masks,
    }
    return {
        "image": torch.zeros(3, 64, 64, dtype=torch.uint8),
        "targets": targets | {"labels": torch.zeros(len(things), dtype=torch.long)},
    }


@pytest.mark.parametrize("classes", [CLASSES, {}])
@pytest.mark.parametrize("things", [[0, 1, 2, 3, 999], [5]])
def test_pasted_panoptic_maps_have_one_segment_per_stuff_class_and_thing_and_no_crowd(things, classes):
    """Of every paste: the pixels of a segment are those of one stuff class or of one instance mask; others are void."""
    shown = 0
    for seed in range(10):
        rng = np.random.default_rng(seed)
        samples = [panoptic_sample(things) for _ in range(4)]
        for result in (mosaic(samples, TargetTypes(), rng, classes), pasted(*samples[:2], TargetTypes(), rng, classes)):
            targets = result["targets"]
            panoptic, masks = targets["panoptic"].numpy(), np.asarray(targets["masks"])
            crowds = targets["panoptic_crowds"]  # of an image into which nothing is pasted
            ids = np.setdiff1d(panoptic, [-1, *crowds])
            persons = [panoptic == one for one in ids if one // 1000 == 0]
            assert [one for one in ids if one // 1000 == 1] == [1000], "one segment of sky"
            assert len(persons) == len(masks)
            assert all(any(np.array_equal(person, mask) for mask in masks) for person in persons)
            assert not crowds or result is samples[0]
            shown += len(persons)
    assert shown > 10


def data_of(name: str, **options: Any) -> DataSplits:
    values = {"name": name, "image_size": 60, "transforms": "resize", "batch_size": 4, "num_workers": 0}
    return DataSplits(DataSection.model_validate(values | options), 3, 1)
