"""Difference hashes and duplicates, against brute force on made images."""

import itertools

import numpy as np

from densevit.data.duplicate_images import HashedImage, difference_hash
from densevit_workbench.doctor.duplicate_images import nearly_identical


def test_difference_hash_compares_each_cell_with_its_left_neighbour():
    stripes = np.zeros((16, 17, 3), np.uint8)
    stripes[:, 1::3] = 200  # brighter than the neighbour at columns 1, 4, 7, ...
    bits = difference_hash(stripes)
    assert bits is not None
    assert np.flatnonzero(bits.reshape(16, 16).all(axis=0)).tolist() == [0, 3, 6, 9, 12, 15]
    assert bits.sum() == 6 * 16
    stripes[:, 6:] = 0
    assert difference_hash(stripes) is None, "most cells are alike"
    assert difference_hash(np.full((40, 40, 3), 90, np.uint8)) is None, "flat"


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
