"""Vertical flips in training: every label is mirrored exactly, in half of the images, apart from horizontal flips."""

from typing import Any

import numpy as np
import pytest
import torch

from densevit import config as configs
from densevit.data.build import build_transforms
from densevit.data.transforms.augmentation import Augmentation, vflip
from densevit.errors import ConfigError
from densevit.interfaces import Frame, Sample
from densevit.targets.keypoints import Keypoints
from densevit.targets.maps import VectorMap
from densevit.targets.run_length_masks import RunLengthMasks
from densevit.targets.types import TargetTypes

HEIGHT, WIDTH = 37, 52
MAPS = ("depth", "semantic", "panoptic")


class Whole:
    """A recipe that does not change images."""

    canvas = evaluation_canvas = None
    recoloring = "none"

    def evaluation_size(self, height: int, width: int) -> tuple[int, int]:
        return height, width

    def training_frame(self, height: int, width: int, *others: Any) -> Frame:
        return Frame((0, 0, height, width), (height, width))


def sample() -> Sample:
    """Random pixels and maps, and two objects with masks."""
    rng = np.random.default_rng(7)
    masks = np.zeros((2, HEIGHT, WIDTH), bool)
    masks[0, 4:9, 7:31] = masks[1, 20:HEIGHT, :13] = True
    targets = {
        "image_id": 1,
        "depth": torch.from_numpy(rng.uniform(1, 9, (HEIGHT, WIDTH)).astype(np.float32)),
        "semantic": torch.from_numpy(rng.integers(0, 20, (HEIGHT, WIDTH)).astype(np.uint8)),
        "panoptic": torch.from_numpy(rng.integers(0, 150_000, (HEIGHT, WIDTH)).astype(np.int32)),
        "boxes": torch.tensor([[7.0, 4, 31, 9], [0, 20, 13, HEIGHT]]),
        "labels": torch.tensor([3, 5]),
        "masks": torch.from_numpy(masks),
    }
    return {"image": torch.from_numpy(rng.integers(0, 256, (3, HEIGHT, WIDTH)).astype(np.uint8)), "targets": targets}


def test_labels_are_those_of_the_mirrored_image() -> None:
    given, seen = sample(), set()
    for seed in range(40):
        augment = Augmentation(Whole(), vertical_flip=True)  # type: ignore[arg-type]
        taken = augment(sample(), np.random.default_rng(seed))
        axes = next(
            axes for axes in ((), (-1,), (-2,), (-2, -1)) if torch.equal(taken["image"], given["image"].flip(axes))
        )
        seen.add(axes)
        targets, expected = taken["targets"], given["targets"]
        for key in (*MAPS, "masks"):
            assert torch.equal(targets[key], expected[key].flip(axes)), (axes, key)
        boxes = expected["boxes"].clone()
        if -1 in axes:
            boxes[:, [0, 2]] = WIDTH - boxes[:, [2, 0]]
        if -2 in axes:
            boxes[:, [1, 3]] = HEIGHT - boxes[:, [3, 1]]
        assert torch.allclose(targets["boxes"], boxes, rtol=0, atol=1e-5) and torch.equal(
            targets["labels"], expected["labels"]
        )
    assert len(seen) == 4


def test_half_of_the_images_are_flipped() -> None:
    augment, given = Augmentation(Whole(), vertical_flip=True), sample()["image"]  # type: ignore[arg-type]
    taken = [augment(sample(), np.random.default_rng(seed))["image"] for seed in range(200)]
    upside_down = sum(torch.equal(image, given.flip(-2)) or torch.equal(image, given.flip(-2, -1)) for image in taken)
    assert 75 <= upside_down <= 125


def test_vectors_and_points_are_mirrored() -> None:
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(3, HEIGHT, WIDTH)).astype(np.float32)
    for kind in (VectorMap(), VectorMap(y_up=True)):
        flipped = vflip(kind, vectors, (HEIGHT, WIDTH))
        assert np.array_equal(flipped, vectors[:, ::-1] * np.array([1, -1, 1], np.float32)[:, None, None])
    kind = Keypoints(["nose", "left_hand", "right_hand"])
    points = np.array([[[10.0, 5, 2], [12, 30, 2], [40, 31, 1]]], np.float32)
    expected = points[:, [0, 2, 1]].copy()  # the mirror image of a left hand is a right hand
    expected[..., 1] = HEIGHT - expected[..., 1]
    assert np.allclose(vflip(kind, points, (HEIGHT, WIDTH)), expected, atol=1e-5)


def test_run_lengths_are_mirrored() -> None:
    masks = np.random.default_rng(3).random((2, HEIGHT, WIDTH)) < 0.4
    found = vflip(TargetTypes()["masks"], RunLengthMasks.from_dense(masks, (HEIGHT, WIDTH)), (HEIGHT, WIDTH))
    assert np.array_equal(np.asarray(found), masks[:, ::-1])


def test_the_config_enables_it() -> None:
    values: dict[str, Any] = {
        "backbone": {"name": "resnet", "depth": 18},
        "heads": {"detection": {"name": "detr"}},
        "data": {"name": "scenes", "vertical_flip": True},
        "trainer": {"max_steps": 1},
    }
    augmentation, _ = build_transforms(configs.from_mapping(values).data)
    assert isinstance(augmentation, Augmentation) and augmentation.vertical_flip
    values["data"]["recipe"] = "resize"
    with pytest.raises(ConfigError, match=r"data\.vertical_flip: the recipe 'resize' has no augmentation"):
        configs.from_mapping(values)
