"""densevit/targets/run_length_masks.py against pycocotools, and against the transforms of pixels."""

import cv2
import numpy as np
import pytest
import torch
from pycocotools import mask as rle

from densevit.data.transforms.sample_augmentation import rotation_matrix
from densevit.targets import InstanceMasks, RunLengthMasks


def random_masks(seed: int, count: int = 6) -> np.ndarray:
    """Blocks and noise; the first mask is empty, the second is full."""
    rng = np.random.default_rng(seed)
    height, width = rng.integers(1, 60, 2)
    masks = rng.random((count, height, width)) < rng.random((count, 1, 1))
    masks[2:4] = np.kron(masks[2:4, ::7, ::7], np.ones((7, 7), bool))[:, :height, :width]
    masks[0], masks[1] = False, True
    return masks


def codes_of(masks: np.ndarray) -> list[bytes]:
    return [one["counts"] for one in rle.encode(np.asfortranarray(masks.transpose(1, 2, 0).astype(np.uint8)))]


def coded(masks: np.ndarray) -> RunLengthMasks:
    return RunLengthMasks.from_codes(codes_of(masks), masks.shape[1:])


@pytest.mark.parametrize("seed", range(6))
def test_codes_of_pycocotools_are_read_and_written(seed):
    masks = random_masks(seed)
    found = coded(masks)
    assert found.shape == masks.shape and len(found) == len(masks)
    assert np.array_equal(np.asarray(found), masks) and torch.equal(found.to("cpu"), torch.from_numpy(masks))
    assert found.areas().tolist() == masks.sum((1, 2)).tolist()
    assert found.codes() == codes_of(masks)
    dense = RunLengthMasks.from_dense(masks, masks.shape[1:])
    assert np.array_equal(np.stack([*dense]), masks) and dense.codes() == codes_of(masks)


@pytest.mark.parametrize("dtype", [np.uint8, np.int64])
def test_regions_of_a_map_are_masks(dtype):
    ids = np.random.default_rng(0).integers(0, 6, (9, 14)).astype(dtype)
    chosen = np.array([4, 0, 200, 3])
    assert np.array_equal(np.asarray(RunLengthMasks.from_ids(ids, chosen)), ids == chosen[:, None, None])
    assert RunLengthMasks.from_ids(ids, np.zeros(0, int)).shape == (0, 9, 14)


@pytest.mark.parametrize("seed", range(6))
def test_transforms_match_those_of_pixels(seed):
    rng, kind, masks = np.random.default_rng(seed), InstanceMasks(), random_masks(seed)
    found, size = coded(masks), masks.shape[1:]
    (top, bottom), (left, right) = (np.sort(rng.choice(side + 1, 2, replace=False)).tolist() for side in size)
    new_size = tuple(rng.integers(1, 90, 2).tolist())
    matrix, window = rotation_matrix(size, float(rng.uniform(-30, 30))), (top, left, bottom, right)
    cropped = masks[:, top:bottom, left:right]

    def resized(dense: np.ndarray) -> np.ndarray:
        options = {"dsize": new_size[::-1], "interpolation": cv2.INTER_NEAREST_EXACT}
        return np.stack([cv2.resize(np.ascontiguousarray(mask, np.uint8), **options) for mask in dense]) > 0

    rotated = [cv2.warpAffine(mask.view(np.uint8), matrix, size[::-1], flags=cv2.INTER_NEAREST) for mask in masks]
    flipped = kind.hflip(found, size)
    for result, expected in (
        (flipped, masks[..., ::-1]),
        (kind.crop(found, window, size), cropped),
        (kind.resize(found, size, new_size), resized(masks)),
        (
            kind.resize(kind.crop(flipped, window, size), cropped.shape[1:], new_size),
            resized(masks[..., ::-1][:, top:bottom, left:right]),
        ),
        (kind.rotate(found, matrix, size), np.stack(rotated) > 0),
        (found[np.array([True, False, True, True, False, True])], masks[[0, 2, 3, 5]]),
        (found[np.array([4, 1])], masks[[4, 1]]),
    ):
        assert np.array_equal(np.asarray(result), expected)
        assert np.array_equal(kind.visible(result, expected.shape[1:]), expected.any((1, 2)))


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_pixels_are_filled_from_edges_on_an_accelerator(device):
    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("no GPU")
    for seed in range(10):
        masks = random_masks(seed)
        assert torch.equal(coded(masks)._filled(device).cpu(), torch.from_numpy(masks))


def test_no_masks():
    found = RunLengthMasks.from_codes([], (4, 5))
    for none in (found, found.hflip(), found.resize((8, 9)).resize((4, 5)), RunLengthMasks.from_dense([], (4, 5))):
        assert none.to("cpu").shape == (0, 4, 5) and list(none) == none.codes() == []
    assert found.rotate(rotation_matrix((4, 5), 10)).shape == (0, 4, 5)
