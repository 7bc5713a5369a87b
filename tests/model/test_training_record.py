"""densevit/model/training_record.py: other sizes and units than those of training are said."""

import copy
import warnings
from typing import Any

import numpy as np
import pytest
import torch

import densevit
from densevit.data.transforms.default import DefaultTransforms
from densevit.model.training_record import TrainingRecord
from densevit_backbones.swin import Swin
from tests.model.small_models import Mean, of_heads


def messages(call: Any, *args: Any, **options: Any) -> list[str]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        call(*args, **options)
    return [str(one.message) for one in caught]


def test_the_smallest_and_the_largest_size_are_kept():
    record = TrainingRecord()
    for size in ((40, 60), (20, 60), (80, 60), (50, 60)):
        record.add_size(size)
    assert record.sizes == [(20, 60), (80, 60)]


@pytest.mark.parametrize(
    ("size", "said"),
    [((480, 640), "5 times"), ((40, 60), "0.44 times"), ((192, 256), ""), ((60, 80), ""), ((100, 120), "")],
)
def test_an_image_far_larger_or_smaller_than_those_of_training_is_said_once(size, said):
    """Twice the sides of 96 x 128 is 192 x 256; sqrt(40 * 60 / (96 * 128)) is 0.44."""
    record = TrainingRecord(sizes=[(96, 128)])
    found = messages(record.warn_of_size, size)
    assert bool(found) == bool(said) and all(said in text and "image_size=128" in text for text in found)
    assert not messages(record.warn_of_size, size)
    assert not messages(TrainingRecord().warn_of_size, size)


@pytest.mark.parametrize(("median", "said"), [(0.08, "250 times below"), (90.0, "4.5 times above"), (55.0, "")])
def test_a_median_far_outside_of_those_of_training_is_said_with_the_factor(median, said):
    record = TrainingRecord(medians={"depth": [10.0, 20.0, 30.0]})
    found = messages(record.warn_of_values, {"depth": [median / 2, median, 2 * median]})
    assert bool(found) == bool(said) and all(said in text and "data.scale" in text for text in found)
    assert not messages(record.warn_of_values, {"distance": [0.08]})


def test_a_model_of_an_own_loop_knows_the_size_of_its_images_and_its_file_too(tmp_path):
    model = densevit.create_model({"name": "swin", "variant": "nano"}, {"map": {"name": "setr", "width": 8}}, ["a"])
    image = np.zeros((200, 300, 3), np.uint8)
    assert not messages(model.predict, image)
    images = model.blank_images(2, (48, 40))  # padded by the model
    model.loss(images, images[:, 0])
    model.save(tmp_path / "model.safetensors")
    for trained in (copy.deepcopy(model), densevit.load(tmp_path / "model.safetensors"), model.with_heads(["map"])):
        assert trained.training_record.sizes == [(48, 40)] * 2
        assert not messages(trained.predict, image, image_size="source")
        assert not messages(trained.predict, image, image_size=48)
        assert not messages(trained.predict, image, inference={"window": 64})
        (message,) = messages(trained.predict, image)
        assert "48 x 40" in message and "200 x 300, 5.6 times" in message
    model.eval()
    with torch.no_grad():
        model.loss(model.blank_images(1, (320, 320)), torch.zeros(1, 320, 320).long())
    assert model.training_record.sizes == [(48, 40)] * 2


def test_a_model_that_resizes_its_images_to_the_size_of_training_says_nothing():
    model = of_heads(Swin("nano"), detection=Mean)
    model.training_record.add_size((48, 64))
    assert not messages(model.with_resize(DefaultTransforms(64)).predict, np.zeros((300, 400, 3), np.uint8))
