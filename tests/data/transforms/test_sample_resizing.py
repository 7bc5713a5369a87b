"""Resizing and augmentation: sizes by hand, pixels as Pillow and torch resize them, and degenerate objects."""

from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from densevit.config import DataSection
from densevit.data.transforms.crop import Crop
from densevit.data.transforms.default import DefaultTransforms
from densevit.data.transforms.detr import DetrTransforms
from densevit.data.transforms.sample_resizing import resize_image
from densevit.data.transforms.transform_builder import build_transforms
from densevit.errors import DataError
from densevit.interfaces import Sample
from densevit.targets import RunLengthMasks


def transforms(**keys: Any) -> Any:
    """The transforms of training and of evaluation."""
    return build_transforms(DataSection(name="scenes", **keys))


def sample(boxes: list[list[float]], height: int = 50, width: int = 80) -> Sample:
    """A grey image with objects of the labels 0, 1, ..."""
    targets = {"boxes": torch.tensor(boxes).reshape(-1, 4), "labels": torch.arange(len(boxes)), "image_id": 12}
    return {"image": torch.full((3, height, width), 100, dtype=torch.uint8), "targets": targets}


def labelled() -> Sample:
    """With two objects of all labels."""
    one = sample([[10, 5, 30, 25], [40, 20, 70, 45]])
    masks = np.zeros((2, 50, 80), bool)
    masks[0, 5:25, 10:30] = masks[1, 20:45, 40:70] = True
    one["targets"] |= {
        "masks": RunLengthMasks.from_dense(masks, (50, 80)),
        "semantic": torch.from_numpy(masks[0] + 2 * masks[1].astype(np.uint8)),
        "depth": torch.from_numpy(masks[0].astype(np.float32) + 0.5),
        "area": torch.ones(2),
        "iscrowd": torch.tensor([False, False]),
    }
    return one


def test_result_depends_on_the_generator_only_and_the_input_is_not_modified():
    given, untouched = labelled(), labelled()
    for name, size in (("default", 128), ("crop", 40)):
        first, again, other = (
            transforms(transforms=name, image_size=size)[0](given, np.random.default_rng(seed)) for seed in (3, 3, 5)
        )
        assert torch.equal(first["image"], again["image"])
        assert not torch.equal(first["targets"]["boxes"], other["targets"]["boxes"])
    assert torch.equal(given["image"], untouched["image"]) and given["targets"].keys() == untouched["targets"].keys()
    for key in ("boxes", "labels", "semantic", "depth"):
        assert torch.equal(given["targets"][key], untouched["targets"][key])


@pytest.mark.parametrize(
    ("keys", "size", "expected"),
    [
        ({"image_size": 320}, (480, 640), (240, 320)),
        ({"image_size": 320}, (2, 2000), (1, 320)),
        ({"image_size": (256, 512)}, (480, 640), (256, 341)),
        ({"image_size": None}, (33, 55), (33, 55)),
        ({"transforms": "detr"}, (480, 640), (800, 1066)),  # sizes from the authors' code
        ({"transforms": "detr"}, (300, 640), (625, 1333)),
        ({"transforms": "detr", "image_size": 480}, (300, 640), (375, 800)),
        ({"transforms": {"name": "crop", "short_side": 512}, "image_size": 512}, (480, 640), (512, 683)),  # 682.67
        ({"transforms": {"name": "crop", "short_side": 512}, "image_size": 512}, (100, 500), (410, 2048)),  # * 4.096
        ({"transforms": "crop", "image_size": 16}, (33, 55), (33, 55)),
        ({"transforms": {"name": "lsj", "short_side": 800}, "image_size": 1024}, (480, 640), (800, 1067)),  # 1066.67
        ({"transforms": "lsj", "image_size": 1024}, (480, 640), (768, 1024)),
    ],
)
def test_evaluation_sizes(keys, size, expected):
    evaluation = transforms(**keys)[1]
    assert evaluation.size_of(*size) == expected
    if size == (480, 640):
        result = evaluation({"image": torch.zeros((3, *size), dtype=torch.uint8), "targets": {"image_id": 1}})
        assert (result["targets"]["size"], result["targets"]["original_size"]) == (expected, size)
        assert result["image"].shape[1:] == (evaluation.canvas or expected)


def test_an_image_of_the_right_size_is_not_resampled():
    given = labelled()
    for size in (80, None, (50, 80)):
        result = transforms(image_size=size)[1](given)
        assert torch.equal(result["image"], given["image"])
        assert all(torch.equal(result["targets"][key], given["targets"][key]) for key in ("boxes", "semantic", "depth"))
    twice = transforms(image_size=160)[1](given)["targets"]["boxes"]
    assert torch.equal(twice, 2 * given["targets"]["boxes"])


def test_images_of_extreme_aspect_are_resized():
    rng = np.random.default_rng(0)
    for made in (DetrTransforms(None), DefaultTransforms(64), DefaultTransforms((64, 32)), Crop(64), Crop((64, 32), 3)):
        for height, width in ((1, 1), (1, 5000), (5000, 1), (3, 2), (7, 900)):
            for _ in range(50):
                (top, left, bottom, right), size = made.training_crop(height, width, rng)
                assert 0 <= top < bottom <= height and 0 <= left < right <= width
                assert min(size) >= 1
            assert min(made.evaluation_size(height, width)) >= 1


def test_degenerate_boxes_are_left_out():
    train, evaluation = transforms(transforms="detr", image_size=(80, 133))
    given = sample(
        [
            [-1e-4, 3, 20, 30],  # just outside
            [60, 40, 80.0001, 50.00001],
            [10, 10, 10, 40],  # no width
            [30, 49, 40, 49],  # no height
            [100, 10, 120, 20],  # elsewhere
            [-30, -30, 0, 0],  # touches a corner
            [5, 5, 5.0001, 5.0001],  # a ten-thousandth of a pixel
            [0, 0, 80, 50],
        ]
    )
    assert evaluation(given)["targets"]["labels"].tolist() == [0, 1, 6, 7]
    for seed in range(60):
        targets = train(given, np.random.default_rng(seed))["targets"]
        assert {7} <= set(targets["labels"].tolist()) <= {0, 1, 6, 7}
        height, width = targets["size"]
        assert (targets["boxes"] >= 0).all()
        assert (targets["boxes"] <= torch.tensor([width, height, width, height])).all()
        assert (targets["boxes"][:, 2:] > targets["boxes"][:, :2]).all()


def test_crowds_are_dropped():
    train, evaluation = transforms(image_size=80)
    given = labelled()
    given["targets"]["iscrowd"][0] = True
    for result in (train(given, np.random.default_rng(5)), evaluation(given)):
        assert result["targets"]["labels"].tolist() == [1]
        assert len(result["targets"]["masks"]) == len(result["targets"]["boxes"]) == 1
        assert "iscrowd" not in result["targets"] and "area" not in result["targets"]
    assert len(given["targets"]["labels"]) == 2


@pytest.mark.parametrize(
    ("boxes", "labels", "facts"),
    [
        ([[1, 2, float("nan"), 5]], torch.tensor([0]), "image 12: boxes .*not finite"),
        ([[1, 2, 3, 5]], torch.tensor([1, 2]), "image 12: .*boxes 1, labels 2"),
        ([[1, 2, 3, 5]], [1, 2], "image 12: labels is a list.*; expected"),
    ],
)
def test_invalid_plugin_targets_are_named(boxes, labels, facts):
    train, evaluation = transforms(image_size=80)
    given = sample(boxes)
    given["targets"]["labels"] = labels
    for transform in (evaluation, lambda one: train(one, np.random.default_rng(0))):
        with pytest.raises(DataError, match=facts):
            transform(given)


def test_images_are_resized_bilinearly_with_anti_aliasing():
    """Noise reveals any other filter than Pillow's."""
    pixels = np.random.default_rng(0).integers(0, 256, (40, 60, 3)).astype(np.uint8)
    for size in ((41, 59), (7, 9), (93, 60), (1, 1)):
        pillow = np.asarray(Image.fromarray(pixels).resize(size[::-1], Image.Resampling.BILINEAR))
        assert np.abs(resize_image(pixels, size).astype(int) - pillow).max() <= 1
    ramp = np.repeat(np.array([[0, 100]], np.uint8)[..., None], 3, axis=2)
    assert resize_image(ramp, (1, 4))[0, :, 0].tolist() == [0, 25, 75, 100]
