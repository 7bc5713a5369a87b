"""Repeat factor sampling (LVIS): detectron2's formula, and what a loader shows."""

import math
from collections import Counter

import numpy as np
import pytest

from densevit.config import DataSection
from densevit.data.data_splits import DataSplits
from densevit.data.loading.repeat_factors import RepeatedIndices, repeat_factors
from tests.data.coco_folder import noise, write_split


def by_detectron2(classes: list[list[int]], threshold: float) -> list[float]:
    """RepeatFactorTrainingSampler.repeat_factors_from_category_frequency, image by image."""
    frequency = Counter(c for own in classes for c in set(own))
    factor = {c: max(1.0, math.sqrt(threshold / (n / len(classes)))) for c, n in frequency.items()}
    return [max({factor[c] for c in set(own)}, default=1.0) for own in classes]


def pairs(classes: list[list[int]]) -> np.ndarray:
    return np.array([(image, c) for image, own in enumerate(classes) for c in own], np.int64).reshape(-1, 2)


def test_factors_equal_detectron2():
    rng = np.random.default_rng(0)
    share = np.geomspace(1e-3, 0.7, 40)
    classes = [np.flatnonzero(rng.random(40) < share).tolist() * 2 for _ in range(500)]
    found = repeat_factors(rng.permutation(pairs(classes)), 500, 0.05)
    np.testing.assert_allclose(found, by_detectron2(classes, 0.05), rtol=1e-12)
    assert found.max() > 3 and found.min() == 1
    assert repeat_factors(pairs([[], []]), 2, 0.5).tolist() == [1, 1]
    none = np.array([[3, -1], [7, -1]])  # -1: no class, which is not a rare one
    assert np.array_equal(repeat_factors(np.concatenate([pairs(classes), none]), 500, 0.05), found)


def test_rounding_is_right_on_average_and_epochs_have_one_length():
    factors = [1.0, 1.3, 2.5, 3.0, 1.7, 1.5]  # sum 11
    indices = RepeatedIndices(np.array(factors), seed=3)
    counts = np.array([np.bincount(indices(epoch), minlength=6) for epoch in range(1000)])
    assert set(counts.sum(axis=1)) == {11}
    assert counts.mean(axis=0) == pytest.approx(factors, abs=0.05)


_IMAGES = 20


def test_loader_repeats_rare_images_without_crowds(tmp_path):
    """20 images with class 1; the last one has class 2 too, and the first a crowd of class 3."""
    objects = [{"image_id": k, "category_id": 1} for k in range(_IMAGES)]
    objects += [{"image_id": _IMAGES - 1, "category_id": 2}, {"image_id": 0, "category_id": 3, "iscrowd": 1}]
    annotations = [{"bbox": [1, 2, 10, 10], **one} for one in objects]
    write_split(
        tmp_path, "train", [noise(k, 40, 80) for k in range(_IMAGES)], annotations,
        [{"id": i, "name": str(i)} for i in (1, 2, 3)],
    )  # fmt: skip
    (tmp_path / "val.json").touch()  # so that train is not divided
    section = DataSection(name="coco", root=str(tmp_path), image_size=32, repeat_factor=0.8, batch_size=1)
    data = DataSplits(section, 0, 32)
    loader = data.train_loader()
    shown = Counter(targets["image_id"] for batch in loader for targets in batch["targets"])
    assert shown == {**dict.fromkeys(range(_IMAGES - 1), 1), _IMAGES - 1: 4}  # sqrt(0.8 / (1 / 20)) = 4
    assert len(loader) == data.batches_per_epoch() == _IMAGES + 3
