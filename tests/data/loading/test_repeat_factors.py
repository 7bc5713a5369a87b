"""Repeat factor sampling (LVIS): detectron2's formula, and what a loader shows."""

import math
from collections import Counter

import numpy as np
import pytest

from densevit.data.loading.repeat_factors import RepeatedIndices, repeat_factors


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
