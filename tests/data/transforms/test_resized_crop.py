"""densevit/data/transforms/resized_crop.py: random crops beside torchvision's formulas."""

import math

import numpy as np
import pytest
import torch

from densevit.config import from_mapping
from densevit.data.transforms.resized_crop import ResizedCrop, seeded
from densevit.data.transforms.transform_builder import build_transforms
from densevit.errors import DensevitError


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


def test_random_numbers_of_a_seed_leave_those_of_torch_as_they_were():
    before = torch.get_rng_state()
    with seeded(3):
        found = torch.rand(2)
    assert torch.equal(found, torch.rand(2, generator=torch.Generator().manual_seed(3)))
    assert torch.equal(torch.get_rng_state(), before)
