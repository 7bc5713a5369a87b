"""Pairs of images that are nearly identical, against brute force."""

import itertools

import numpy as np

from densevit.data.duplicate_images import HashedImage
from densevit_workbench.doctor.duplicate_images import nearly_identical


def test_pairs_are_those_of_a_comparison_of_all_with_all():
    rng = np.random.default_rng(0)
    bits = rng.random((60, 256)) < 0.5
    for i in range(0, 60, 3):
        bits[i + 1] = bits[i]
        bits[i + 1, rng.choice(256, 10 + i // 3, replace=False)] ^= True  # 10 to 29 different bits
    images = [HashedImage("train", str(i), bytes([i]), row) for i, row in enumerate(bits)]
    expected = {(str(i), str(j)) for i, j in itertools.combinations(range(60), 2) if (bits[i] != bits[j]).sum() <= 20}
    assert {(a.name, b.name) for a, b in nearly_identical(images)} == expected
    assert len(expected) == 11
