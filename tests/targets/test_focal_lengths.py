"""Focal lengths follow their images, and with the depth give one canonical depth under every transform."""

import numpy as np
import pytest
import torch

from densevit.config import section
from densevit.data.transforms.augmentation_phases import transforms_at
from densevit.data.transforms.sample_resizing import EvaluationTransform
from densevit.data.transforms.transform_builder import build_training_transform, build_transforms
from densevit.errors import DataError
from densevit.losses.depth import canonical_depth
from densevit.targets import Depth, FocalLength

HEIGHT, WIDTH, METRES, FOCAL = 60, 80, 4.0, 100.0


def sample():
    """A wall at 4 m, seen by a camera whose focal length is 100 pixels."""
    image = torch.arange(3 * HEIGHT * WIDTH).view(3, HEIGHT, WIDTH).to(torch.uint8)
    return {"image": image, "targets": {"image_id": 1, "depth": torch.full((HEIGHT, WIDTH), METRES), "focal": FOCAL}}


def test_values_by_hand():
    kind, size = FocalLength(), (60, 80)
    assert kind.resize(100.0, size, (30, 40)) == 50 and kind.resize(100.0, size, (240, 80)) == 200
    assert kind.resize(100.0, size, (120, 160), zoom=2.0) == 100 and kind.resize(100.0, size, size).dtype == np.float32
    assert FocalLength("keep").resize(100.0, size, (120, 160), zoom=2.0) == 200
    turned = kind.rotate(kind.hflip(kind.crop(100.0, (0, 0, 30, 30), size), size), np.eye(2, 3), size)
    assert turned == 100 and kind.paste(100.0, 90.0, np.ones((1, 1), bool)) == 100
    for wrong in (0, -1.0, np.nan, np.inf, [1.0], "a"):
        with pytest.raises(DataError, match="expected one number of pixels above 0"):
            kind.check(wrong, size)


@pytest.mark.parametrize("kept", ["divide", "keep"])
@pytest.mark.parametrize("name", ["default", "crop", "resize"])
def test_the_canonical_depth_is_that_of_the_focal_length_in_the_network_s_pixels(name, kept):
    """In evaluation, at half the size, 300 / 50 * 4 m. An augmented image enlarged by a zoom has 1 / zoom of it,
    whether the zoom divides depth or not. The zoom is read from the depth that is divided."""
    data = section("data", {"name": "depth", "image_size": 40, "transforms": name}, "test")
    evaluation = build_transforms(data)[1]
    targets = EvaluationTransform(evaluation.transforms)(sample())["targets"]
    assert targets["focal"].item() == {"crop": 100}.get(name, 50)  # crops keep the size in evaluation
    canonical = METRES * 300 / targets["focal"].item()
    assert canonical_depth(targets, 300.0).unique().item() == pytest.approx(canonical)
    augment = build_training_transform(data, transforms_at(data, 60), evaluation.transforms)
    types = {"depth": Depth(kept), "focal": FocalLength(kept)}
    for seed in range(4):
        zoom = METRES / augment(sample(), np.random.default_rng(seed))["targets"]["depth"].max().item()
        assert zoom != 1
        targets = augment(sample(), np.random.default_rng(seed), types)["targets"]
        assert canonical_depth(targets, 300.0).max().item() == pytest.approx(canonical / zoom, rel=1e-4)
