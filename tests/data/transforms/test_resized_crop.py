"""Random resized crops, RandAugment, random erasing, MixUp and CutMix, beside torchvision's formulas."""

import math
from typing import Any

import numpy as np
import pytest
import torch

from densevit.config import from_mapping
from densevit.data.transforms.image_mixing import ImageMixing
from densevit.data.transforms.resized_crop import ResizedCrop
from densevit.data.transforms.transform_builder import build_transforms
from densevit.errors import DensevitError
from densevit.interfaces import Sample
from densevit.targets.types import TargetTypes


def sample(seed: int = 0, size: tuple[int, int] = (40, 60), **targets: Any) -> Sample:
    pixels = np.random.default_rng(seed).integers(0, 256, (3, *size), np.uint8)
    return {
        "image": torch.from_numpy(pixels),
        "targets": {"image_id": seed, "size": size, "image_class": torch.tensor(seed % 5), **targets},
    }


def test_areas_and_ratios_are_those_of_torchvision():
    """The distributions of the crops' areas and aspect ratios, each by its mean and spread."""
    from torchvision.transforms import v2

    height, width, count = 80, 120, 4000
    crop, rng = ResizedCrop((32, 48)), np.random.default_rng(0)
    frames = [crop.training_crop(height, width, rng) for _ in range(count)]
    assert {frame.size for frame in frames} == {(32, 48)}
    windows = np.array([frame.window for frame in frames])
    assert (windows[:, :2] >= 0).all() and (windows[:, 2:] <= (height, width)).all()
    ours = windows[:, 2:] - windows[:, :2]
    torch.manual_seed(0)
    pixels = torch.zeros(3, height, width)
    drawn = [v2.RandomResizedCrop(8).make_params([pixels]) for _ in range(count)]
    theirs = np.array([(params["height"], params["width"]) for params in drawn])
    for values in (lambda sides: sides.prod(1) / (height * width), lambda sides: np.log(sides[:, 1] / sides[:, 0])):
        a, b = values(ours), values(theirs)
        assert abs(a.mean() - b.mean()) < 5 * b.std() / math.sqrt(count) and abs(a.std() - b.std()) < 0.02


def test_narrow_images_get_the_largest_allowed_crop():
    window, size = ResizedCrop((16, 16), (0.99, 1.0)).training_crop(10, 100, np.random.default_rng(0))
    assert window == (0, 43, 10, 56) and size == (16, 16)
    assert ResizedCrop((16, 24)).evaluation_size(40, 60) == (16, 24)
    assert ResizedCrop((16, 16)).evaluation_size(100, 50) == (32, 16)


@pytest.mark.parametrize("kind", ["mixup", "cutmix"])
def test_images_and_shares_are_mixed_alike(kind):
    """The shares of the labels are those of the pixels."""
    samples = [sample(i) for i in range(5)]
    for i, one in enumerate(samples):
        one["image"] = torch.full((3, 40, 60), 50 * i, dtype=torch.uint8)
    mixed = ImageMixing(**{kind: 1.0})(samples, [0, 1], TargetTypes())
    for i, one in enumerate(mixed):
        (first, share), (second, rest) = one["targets"]["image_class"].tolist()
        assert (first, second) == (i, (i - 1) % 5) and share + rest == pytest.approx(1)
        expected = share * 50 * i + rest * 50 * ((i - 1) % 5)
        assert float(one["image"].float().mean()) == pytest.approx(expected, abs=0.5)
        values = {*one["image"].unique().tolist()}
        assert len(values) == 1 if kind == "mixup" else values <= {50 * i, 50 * ((i - 1) % 5)}
        assert one["targets"]["image_id"] == i and one["image"].dtype == torch.uint8
    again = ImageMixing(**{kind: 1.0})(samples, [0, 1], TargetTypes())
    assert all(torch.equal(a["image"], b["image"]) for a, b in zip(mixed, again, strict=True))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"transforms": "resized_crop"}, r"data\.image_size is missing: the transforms 'resized_crop' need"),
        ({"transforms": {"name": "resized_crop", "rand_augment": 31}, "image_size": 32}, r"rand_augment .*30, not 31"),
        ({"mixup": 0}, "mixup"),
    ],
)
def test_wrong_options_are_errors(options, message):
    values = {"backbone": {"name": "swin"}, "heads": {}, "trainer": {"max_steps": 1}}
    with pytest.raises(DensevitError, match=message):
        build_transforms(from_mapping({**values, "data": {"name": "images", **options}}, "test").data)
