"""Crops of large images for detection: placed around objects, without objects, and what is left of cut objects."""

from typing import Any

import numpy as np
import pytest
import torch

from densevit.config import DataSection
from densevit.data.transforms.transform_builder import build_transforms
from densevit.interfaces import Sample


def large(boxes: list[tuple[float, ...]], size: tuple[int, int] = (400, 600)) -> Sample:
    """A black image with white boxes."""
    image = torch.zeros(3, *size, dtype=torch.uint8)
    for left, top, right, bottom in boxes:
        image[:, int(top) : int(bottom), int(left) : int(right)] = 255
    table = torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)
    return {"image": image, "targets": {"boxes": table, "labels": torch.arange(len(boxes)), "image_id": 1}}


def crops(sample: Sample, count: int, **keys: Any) -> list[Any]:
    transform = build_transforms(
        DataSection(name="coco", image_size=64, transforms={"name": "crop", "scales": (1.0, 1.0)} | keys)
    )[0]
    return [transform(sample, np.random.default_rng(seed)) for seed in range(count)]


def test_object_crops_have_a_whole_object_at_any_place():
    sample = large([(300, 200, 310, 212), (590, 390, 600, 400)])
    empty = [not len(crop["targets"]["boxes"]) for crop in crops(sample, 50, object_crops=0.5)]
    assert 0.3 < np.mean(empty) < 0.65  # the other half finds an object in few crops
    assert crops(large([]), 1, object_crops=1.0)[0]["targets"]["boxes"].shape == (0, 4)
    boxes = [crop["targets"]["boxes"] for crop in crops(sample, 120, object_crops=1.0)]
    assert all(len(found) == 1 for found in boxes)  # the objects are farther apart than a crop is long
    table = torch.cat(boxes)
    widths, heights = (table[:, 2:] - table[:, :2]).T
    assert widths.tolist() == pytest.approx([10] * 120, abs=1e-3)
    assert set(heights.round().tolist()) == {10, 12}
    inner = table[heights > 11]
    assert 36 < len(inner) < 84  # each object is as likely
    assert inner[:, 0].min() < 4 and inner[:, 0].max() > 50  # 0 ... 54
    assert inner[:, 1].min() < 4 and inner[:, 1].max() > 48  # 0 ... 52


@pytest.mark.parametrize("least", [None, 0.25, 0.55, 1.0])
def test_objects_with_a_smaller_visible_share_are_left_out(least):
    """An image as high as a crop, shown from some column on: the objects' rows tell them apart."""
    boxes = [(0, 0, 100, 10), (20, 20, 100, 30), (40, 40, 60, 50)]
    for crop in crops(large(boxes, (64, 100)), 30, **({} if least is None else {"min_visible": least})):
        white = (crop["image"] > 80).all(0).float()
        visible = {n: float(white[20 * n : 20 * n + 10].sum()) / 10 / (boxes[n][2] - boxes[n][0]) for n in range(3)}
        expected = [n for n, share in visible.items() if share > 0 and share >= (least or 0) - 1e-6]
        assert crop["targets"]["labels"].tolist() == expected
