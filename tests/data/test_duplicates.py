"""Difference hashes and duplicates, against brute force on made images."""

import itertools

import numpy as np
from PIL import Image as PillowImage

from densevit.data.duplicates import Image, difference_hash
from densevit_workbench.doctor.duplicates import identical, nearly_identical


def textured(seed: int, side: int = 128) -> np.ndarray:
    """A random smooth image (side, side, 3)."""
    coarse = np.random.default_rng(seed).integers(0, 256, (9, 9, 3)).astype(np.uint8)
    return np.asarray(PillowImage.fromarray(coarse).resize((side, side), PillowImage.Resampling.BICUBIC))


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


def test_copies_of_another_size_and_quality_are_near_and_others_are_not(tmp_path):
    original = textured(0)
    image = PillowImage.fromarray(original)
    image.resize((70, 70)).save(tmp_path / "small.jpg", quality=60)
    small = np.asarray(PillowImage.open(tmp_path / "small.jpg"))
    arrays = {"original": original, "copy": original.copy(), "small": small, "other": textured(1)}
    images = [Image("train", name, a.tobytes(), difference_hash(a)) for name, a in arrays.items()]
    assert [[one.name for one in group] for group in identical(images)] == [["original", "copy"]]
    assert [(a.name, b.name) for a, b in nearly_identical(images)] == [("original", "small")]


def test_pairs_are_those_of_a_comparison_of_all_with_all():
    rng = np.random.default_rng(0)
    bits = rng.random((60, 256)) < 0.5
    for i in range(0, 60, 3):
        bits[i + 1] = bits[i]
        bits[i + 1, rng.choice(256, 10 + i // 3, replace=False)] ^= True  # 10 to 29 different bits
    images = [Image("train", str(i), bytes([i]), row) for i, row in enumerate(bits)]
    expected = {(str(i), str(j)) for i, j in itertools.combinations(range(60), 2) if (bits[i] != bits[j]).sum() <= 20}
    assert {(a.name, b.name) for a, b in nearly_identical(images)} == expected
    assert len(expected) == 11
