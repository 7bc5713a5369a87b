"""`image_size` of `predict`: the size that images are resized to, and windows of images at their own size."""

import pytest
import torch

from densevit import config as configs
from densevit.data.transforms.default import DefaultTransforms
from densevit.errors import ConfigError
from densevit.model import DenseModel
from tests.model.small_models import Segmenter
from tests.model.test_tiled_detection import CLASSES, Oracle, Pixels, as_set, painted


class Brightness(Segmenter):
    """Labels each pixel by whether its red value is above 127."""

    def forward(self, features, padding_mask, targets=None):
        return {"logits": features[0].round()}

    def maps(self, outputs, size):
        return outputs["logits"][:, :1, : size[0], : size[1]]

    def read_maps(self, maps):
        return {"semantic": (maps[:, 0] > 127.5).to(torch.uint8)}


class OneSize(Pixels):
    """A backbone of one input size."""

    input_size = (64, 64)

    def forward(self, images):
        assert images.shape[2:] == self.input_size
        return super().forward(images)


def trained_at(image_size, *heads, backbone=Pixels, transforms="default"):
    """A predictor whose images were resized to this size in its training."""
    model = DenseModel(backbone(), {head.__name__.lower(): head((3,), (4,), CLASSES) for head in heads}).eval()
    values = {"backbone": {"name": "x"}, "heads": {name: {"name": "x"} for name in model.heads}}
    data = {"name": "coco", "root": ".", "image_size": image_size, "transforms": transforms}
    return model.with_config(configs.from_mapping({**values, "data": data, "trainer": {"max_steps": 1}}))


def test_a_window_slides_over_the_image_at_its_own_size():
    image, truth = painted((512, 512), 60, 40)
    predictor = trained_at(96, Oracle)
    whole = predictor.predict(image)
    assert predictor.heads["oracle"].runs == [(1, 96, 96)] and as_set(whole) != as_set(truth)
    assert as_set(predictor.predict(image, inference={"window": 160})) == as_set(truth)
    assert as_set(predictor.predict(image, inference={"window": 160}, image_size="source")) == as_set(truth)
    again = predictor.with_inference({"window": 160}).predict(image)  # of the resized image, as a config's window
    assert predictor.heads["oracle"].runs[-1] == (1, 96, 96) and as_set(again) == as_set(whole)


def test_maps_at_source_size_have_the_details_of_the_image():
    image, window = torch.randint(0, 256, (3, 150, 200), dtype=torch.uint8), {"window": [48, 64], "stride": 32}
    predictor, expected = trained_at(50, Brightness), (image[0] > 127).to(torch.uint8)
    assert torch.equal(predictor.predict(image, inference=window, image_size="source").semantic, expected)
    assert not torch.equal(predictor.predict(image).semantic, expected)


@pytest.mark.parametrize(
    ("image_size", "transforms", "grid"),
    [
        (64, "default", (32, 64)),
        ((64, 64), "default", (64, 64)),
        (64, "detr", (32, 64)),
        ("source", "detr", (100, 200)),
    ],
)
def test_a_side_is_the_long_one_and_a_pair_a_canvas_whatever_the_transforms(image_size, transforms, grid):
    predictor = trained_at(48, Oracle, transforms=transforms)
    predictor.predict(torch.zeros(3, 100, 200, dtype=torch.uint8), image_size=image_size)
    assert predictor.heads["oracle"].runs == [(1, *grid)]


def test_images_of_several_sizes_are_padded_to_the_size_of_the_backbone_in_one_batch():
    images = [torch.randint(0, 256, (3, *size), dtype=torch.uint8) for size in ((64, 64), (40, 64), (64, 33), (5, 5))]
    predictor = trained_at((64, 64), Oracle, backbone=OneSize, transforms="detr").with_resize(DefaultTransforms(None))
    predictor.predict(images)
    assert predictor.heads["oracle"].runs == [(4, 64, 64)]
    assert predictor(images[1][None]).keys() == {"oracle"} and predictor.heads["oracle"].runs[1:] == [(1, 64, 64)]


def test_a_backbone_of_one_size_needs_windows_of_it():
    predictor = trained_at((64, 64), Oracle, backbone=OneSize)
    image, truth = painted((200, 230), 20, 15)
    for image_size in ("source", 128, 64):
        with pytest.raises(ConfigError, match=rf"image_size {image_size}: .* 64x64 only, .*heads.oracle.*window 64x64"):
            predictor.predict(image, image_size=image_size)
    assert predictor.predict(image, image_size=(64, 64)).size == (200, 230)
    assert as_set(predictor.predict(image, inference={"window": [64, 64]})) == as_set(truth)
