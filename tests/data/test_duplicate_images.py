"""Difference hashes of made images."""

import numpy as np

from densevit.data.duplicate_images import difference_hash


def test_difference_hash_compares_each_cell_with_its_left_neighbour():
    stripes = np.zeros((16, 17, 3), np.uint8)
    stripes[:, 1::3] = 200  # brighter than the neighbour at columns 1, 4, 7, ...
    bits = difference_hash(stripes)
    assert bits is not None
    assert np.flatnonzero(bits.reshape(16, 16).all(axis=0)).tolist() == [0, 3, 6, 9, 12, 15] and bits.sum() == 6 * 16
    stripes[:, 6:] = 0
    assert difference_hash(stripes) is None, "most cells are alike"
    assert difference_hash(np.full((40, 40, 3), 90, np.uint8)) is None, "flat"
