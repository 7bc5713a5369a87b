"""Run-length coded masks against pycocotools, and against the transforms of masks with pixels."""

import pickle

import numpy as np
import pytest
import torch
from pycocotools import mask as rle

from densevit import registry
from densevit.data.transforms.augmentation import Augmentation, rotation_matrix
from densevit.data.transforms.resizing import EvaluationTransform
from densevit.targets import InstanceMasks, RunLengthMasks

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # pycocotools' decode


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
    codes = codes_of(masks)
    joined = np.frombuffer(b"".join(codes), np.uint8)
    return RunLengthMasks.from_codes(joined, np.array([len(code) for code in codes]), masks.shape[1:])


@pytest.mark.parametrize("seed", range(20))
def test_codes_of_pycocotools_are_read_and_written(seed: int) -> None:
    masks = random_masks(seed)
    found = coded(masks)
    assert found.shape == masks.shape and len(found) == len(masks)
    assert np.array_equal(np.asarray(found), masks) and torch.equal(found.to("cpu"), torch.from_numpy(masks))
    assert found.areas().tolist() == masks.sum((1, 2)).tolist()
    assert [one["counts"] for one in found] == codes_of(masks)
    assert found[-1] == rle.encode(np.asfortranarray(masks[-1].astype(np.uint8)))
    dense = RunLengthMasks.from_dense(masks, masks.shape[1:])
    assert np.array_equal(np.asarray(dense), masks) and [one["counts"] for one in dense] == codes_of(masks)


@pytest.mark.parametrize("seed", range(20))
def test_transforms_match_those_of_pixels(seed: int) -> None:
    rng, kind, masks = np.random.default_rng(seed), InstanceMasks(), random_masks(seed)
    found, size = coded(masks), masks.shape[1:]
    (top, bottom), (left, right) = (np.sort(rng.choice(side + 1, 2, replace=False)).tolist() for side in size)
    new_size = tuple(rng.integers(1, 90, 2).tolist())
    matrix = rotation_matrix(size, float(rng.uniform(-30, 30)))
    for change in (
        lambda value: kind.hflip(value, size),
        lambda value: kind.crop(value, (top, left, bottom, right), size),
        lambda value: kind.resize(value, size, new_size),
        lambda value: kind.resize(kind.crop(kind.hflip(value, size), (top, left, bottom, right), size), size, new_size),
        lambda value: kind.rotate(value, matrix, size),
        lambda value: value[np.array([True, False, True, True, False, True])],
        lambda value: value[np.array([4, 1])],
    ):
        expected, result = change(masks), change(found)
        assert isinstance(result, RunLengthMasks)
        assert np.array_equal(np.asarray(result), expected)
        assert np.array_equal(kind.visible(result, expected.shape[1:]), expected.any((1, 2)))


@pytest.mark.parametrize(
    ("name", "size", "options"), [("detr", (64, 96), {}), ("crop", 48, {"rotation": 10.0}), ("fixed", 64, {})]
)
def test_samples_match_those_with_pixels(name: str, size: int | tuple[int, int], options: dict[str, float]) -> None:
    transforms = registry.create("transforms", name, size, options=options, where="data.transforms")
    augment = Augmentation(transforms)
    for seed in range(20):
        masks = random_masks(seed)[:, :, :]
        height, width = masks.shape[1:]
        boxes = torch.tensor([[0.0, 0.0, width, height]] * len(masks))
        targets = {"image_id": 1, "boxes": boxes, "labels": torch.arange(6), "iscrowd": torch.arange(6) == 3}
        image = torch.zeros((3, height, width), dtype=torch.uint8)
        results = []
        for value in (torch.from_numpy(masks), coded(masks)):
            sample = {"image": image, "targets": targets | {"masks": value}}
            trained, evaluated = (
                augment(sample, np.random.default_rng(seed)),
                EvaluationTransform(transforms)(sample),
            )
            results.append([trained["targets"], evaluated["targets"]])
        for dense, found in zip(*results, strict=True):
            assert torch.equal(found["masks"].to("cpu"), dense["masks"]) and torch.equal(
                found["labels"], dense["labels"]
            )


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_pixels_are_filled_from_edges_on_an_accelerator(device: str) -> None:
    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("no GPU")
    for seed in range(10):
        masks = random_masks(seed)
        assert torch.equal(coded(masks)._filled(device).cpu(), torch.from_numpy(masks))


def test_points_are_looked_up_in_the_edges() -> None:
    masks = random_masks(7)
    count, height, width = masks.shape
    n, y, x = np.random.default_rng(0).integers((count, height, width), size=(500, 3)).T
    number = (n * width + x) * height + y
    inside = torch.searchsorted(torch.from_numpy(coded(masks).edges()), torch.from_numpy(number), right=True) % 2 == 1
    assert inside.tolist() == masks[n, y, x].tolist()


def test_no_masks() -> None:
    found = RunLengthMasks.from_codes(np.zeros(0, np.uint8), np.zeros(0, int), (4, 5))
    for none in (found, found.hflip(), found.resize((8, 9)).resize((4, 5)), RunLengthMasks.from_dense([], (4, 5))):
        assert none.to("cpu").shape == (0, 4, 5) and list(none) == []
    assert found.rotate(rotation_matrix((4, 5), 10)).shape == (0, 4, 5)


def test_a_hundred_masks_of_1333_x_800_take_less_than_a_megabyte() -> None:
    rng = np.random.default_rng(0)
    y, x = np.ogrid[:800, :1333]
    centres, radii = rng.integers(0, (800, 1333), (100, 2)), rng.integers(10, 150, 100)
    discs = (
        (y - cy) ** 2 + (x - cx) ** 2 < r * r for (cy, cx), r in zip(centres.tolist(), radii.tolist(), strict=True)
    )
    assert len(pickle.dumps(RunLengthMasks.from_dense(discs, (800, 1333)))) < 1e6
