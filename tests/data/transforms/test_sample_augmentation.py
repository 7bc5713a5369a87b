"""densevit/data/transforms/sample_augmentation.py: rotation and vertical flips in training.

All labels are rotated with the image, and corners stay unlabelled. A vertical flip mirrors every label exactly, in half
of the images, apart from horizontal flips.
"""

from typing import Any

import numpy as np
import pytest
import torch

from densevit.data.transforms.sample_augmentation import Augmentation
from densevit.interfaces import IGNORE, CropAndSize, Sample, Transforms
from densevit.targets.run_length_masks import RunLengthMasks

HEIGHT, WIDTH, LIMIT = 120, 200, 15.0


class Whole(Transforms):
    """Leaves the size of images as it is, and rotates them."""

    def __init__(self, rotation: float = 0.0) -> None:
        self.rotation = rotation

    def evaluation_size(self, height: int, width: int) -> tuple[int, int]:
        return height, width

    def training_crop(self, height: int, width: int, *others: Any) -> CropAndSize:
        return CropAndSize((0, 0, height, width), (height, width))


def sample() -> Sample:
    """An image whose red and green are column and row and whose blue is 255; labels are the same two."""
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    image = np.stack([columns, rows * 2, np.full_like(rows, 255)]).astype(np.uint8)
    masks = np.zeros((2, HEIGHT, WIDTH), bool)
    masks[0, 40:80, 70:150] = masks[1, 50:60, 20:40] = True
    targets = {
        "image_id": 1,
        "depth": torch.from_numpy((1 + rows * WIDTH + columns).astype(np.float32)),
        "semantic": torch.from_numpy((columns // 20).astype(np.uint8)),
        "panoptic": torch.from_numpy((rows * 1000 + columns).astype(np.int32)),
        "boxes": torch.tensor([[70.0, 40, 150, 80], [20, 50, 40, 60]]),
        "labels": torch.tensor([3, 5]),
        "masks": RunLengthMasks.from_dense(masks, masks.shape[1:]),
    }
    return {"image": torch.from_numpy(image), "targets": targets}


def turned(seed: int) -> Sample:
    return Augmentation(Whole(LIMIT))(sample(), np.random.default_rng(seed))


@pytest.mark.parametrize("seed", range(2))
def test_rotated_labels_match_the_pixels_and_corners_are_unlabelled(seed):
    taken = turned(seed)
    image, targets = taken["image"].numpy().astype(int), taken["targets"]
    depth, semantic = targets["depth"].numpy(), targets["semantic"].numpy()
    inside, outside = image[2] == 255, image[2] < 100
    assert 0.7 < inside.mean() < 1
    place = depth[inside].astype(int) - 1
    assert (place >= 0).all(), "all that is wholly seen has a depth"
    assert np.abs(place % WIDTH - image[0][inside]).max() <= 1
    assert np.abs(place // WIDTH - image[1][inside] / 2).max() <= 1
    assert (semantic[inside] == place % WIDTH // 20).all()
    assert outside.any() and (depth[outside] == 0).all()
    assert ((depth == 0) == (semantic == IGNORE)).all() and (depth == depth.round()).all()
    assert targets["labels"].tolist() == [3, 5]
    for box, mask in zip(targets["boxes"], targets["masks"].to("cpu"), strict=True):
        rows, columns = mask.any(1).nonzero()[:, 0], mask.any(0).nonzero()[:, 0]
        seen = torch.stack([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1])
        assert (box - seen).abs().max() <= 1.5


def test_labels_are_those_of_the_mirrored_image():
    given, seen = sample(), []
    for seed in range(40):
        taken = Augmentation(Whole(), vertical_flip=True)(sample(), np.random.default_rng(seed))
        ways = ((), (-1,), (-2,), (-2, -1))
        axes = next(axes for axes in ways if torch.equal(taken["image"], given["image"].flip(axes)))
        seen.append(axes)
        targets, expected = taken["targets"], given["targets"]
        for key in ("depth", "semantic", "panoptic"):
            assert torch.equal(targets[key], expected[key].flip(axes)), (axes, key)
        assert torch.equal(targets["masks"].to("cpu"), expected["masks"].to("cpu").flip(axes)), axes
        boxes = expected["boxes"].clone()
        if -1 in axes:
            boxes[:, [0, 2]] = WIDTH - boxes[:, [2, 0]]
        if -2 in axes:
            boxes[:, [1, 3]] = HEIGHT - boxes[:, [3, 1]]
        torch.testing.assert_close(targets["boxes"], boxes, rtol=0, atol=1e-5)
        assert torch.equal(targets["labels"], expected["labels"])
    assert len(set(seen)) == 4 and 12 <= sum(-2 in axes for axes in seen) <= 28, "half of the images"
