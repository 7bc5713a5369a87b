"""The first layers of backbones for any channels: every family, against the same model of three channels and timm's."""

import pytest
import torch
from torch import Tensor, nn

import densevit
from densevit.channels import RGB, Channels
from densevit.errors import ConfigError
from densevit.interfaces import Backbone
from densevit.model import BackboneArchitecture, backbone_from
from densevit.model.stem_channels import adapted, adapted_state, stem_tensors

FAMILIES = {
    "vit": {"variant": "nano", "image_size": 64},
    "vit, convolutions": {"variant": "nano", "image_size": 64, "stem": "conv"},
    "vit, resnet": {"variant": "nano", "image_size": 64, "stem": "resnet"},
    "windowed_vit": {"variant": "nano", "image_size": 64},
    "swin": {"variant": "nano"},
    "swin, convolutions": {"variant": "nano", "stem": "conv"},
    "mit": {},
    "mvit": {"variant": "nano"},
    "mvit, convolutions": {"variant": "nano", "stem": "conv"},
    "resnet": {"depth": 18},
    "resnet, deep stem": {"depth": 18, "variant": "d"},
    "timm": {"model": "convnext_atto"},
    "timm, patches": {"model": "vit_tiny_patch16_224"},
    "timm, lite": {"model": "efficientnet_lite0"},
}
NIR = ("red", "green", "blue", "nir")


def _architecture(family: str, names: tuple[str, ...] = RGB.names) -> BackboneArchitecture:
    count = len(names)
    channels = Channels(names, "float32", ((0.0, 1.0),) * count)
    return BackboneArchitecture(
        family.partition(",")[0], FAMILIES[family], (0.5,) * count, (1.0,) * count, channels=channels
    )


def _randomised(backbone: Backbone) -> Backbone:
    with torch.no_grad():
        for value in backbone.state_dict().values():
            if value.is_floating_point():
                value.uniform_(0.1, 0.4) if value.ndim < 2 else value.normal_(std=0.1)
    return backbone.eval()


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_takes_any_channels(family):
    torch.manual_seed(0)
    plain = densevit.create_backbone(family.partition(",")[0], **FAMILIES[family])
    torch.manual_seed(0)
    three = backbone_from(_architecture(family))
    assert all(torch.equal(a, b) for a, b in zip(plain.state_dict().values(), three.state_dict().values(), strict=True))
    for names in (("grey",), (*NIR, "swir")):
        backbone = _randomised(backbone_from(_architecture(family, names)))
        images = torch.rand(2, len(names), 64, 96)
        features = backbone(images)
        assert [x.shape[1] for x in features] == [*backbone.channels]
        for i in range(len(names)):
            other = images.clone()
            other[:, i] += 1
            assert not torch.equal(backbone(other)[-1], features[-1])


@pytest.mark.parametrize("family", FAMILIES)
def test_a_grey_image_has_the_same_features_after_adapting(family):
    """Of an image with equal channels, with RGB's filters kept (of four channels), or none (of two and of one)."""
    source = _randomised(backbone_from(_architecture(family)))
    grey = torch.rand(1, 1, 64, 96)
    expected = source(grey.expand(-1, 3, -1, -1))
    for names in (NIR, ("near", "far"), ("grey",), ("red",)):
        architecture = _architecture(family, names)
        backbone = backbone_from(architecture)
        state, keys = adapted_state(source.state_dict(), architecture, RGB.names)
        assert keys
        backbone.load_state_dict(state)
        found = backbone.eval()(grey.expand(-1, len(names), -1, -1))
        if "resnet" in family and family.startswith("vit"):
            continue  # its filters are standardised, so that their scale has no effect
        for x, y in zip(found, expected, strict=True):
            assert (x - y).abs().max() <= 1e-4 * y.abs().max()


def test_filters_go_by_name():
    kernel = torch.randn(4, 3, 2, 2)
    red, green, blue = kernel.unbind(1)
    order = adapted(kernel, RGB.names, ("blue", "red", "green"))
    assert torch.equal(order, torch.stack((blue, red, green), 1))
    more = adapted(kernel, RGB.names, (*RGB.names, "nir", "swir"))
    assert torch.allclose(more[:, :3], kernel * 3 / 5)
    assert torch.allclose(more[:, 3], kernel.mean(1) * 3 / 5)
    back = adapted(torch.randn(4, 5, 2, 2), ("a", "b", "c", "d", "e"), ("e", "a"))
    assert back.shape == (4, 2, 2, 2)
    assert torch.equal(adapted(kernel, RGB.names, ("thermal",)), (red + green + blue)[:, None])


def test_one_channel_is_adapted_as_by_timm():
    from timm.models._manipulate import adapt_input_conv

    kernel = torch.randn(8, 3, 7, 7)
    assert torch.allclose(adapted(kernel, RGB.names, ("grey",)), adapt_input_conv(1, kernel))


def test_stems_are_found_without_memory():
    architecture = _architecture("resnet, deep stem")
    assert stem_tensors(architecture) == ["conv1.0.weight"]


class Three(Backbone):
    """A third party's backbone of three channels."""

    channels, strides = (3,), (1,)

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(3, 3, 1)

    def forward(self, images: Tensor) -> list[Tensor]:
        return [self.convolution(images)]


def test_a_third_partys_backbone_of_three_channels_is_named():
    channels = Channels(NIR, "uint16", ((0.0, 1.0),) * 4)
    architecture = BackboneArchitecture(f"{__name__}:Three", channels=channels)
    with pytest.raises(ConfigError, match=r"Three' takes images of three channels, and the data's have 4: red, green"):
        backbone_from(architecture)
    with pytest.raises(ConfigError, match=r"backbone\.channels: dtype and range are missing"):
        backbone_from(BackboneArchitecture("swin", channels=Channels(NIR, "", ())))


@pytest.mark.parametrize(
    ("theirs", "ours"), ((RGB.names, NIR), (NIR, RGB.names), (NIR, (*NIR[::-1],)), (NIR, ("nir",)))
)
def test_weights_of_a_model_file_are_adapted(theirs, ours, tmp_path):
    def created(names: tuple[str, ...], weights: str | None = None) -> densevit.Predictor:
        count = len(names)
        channels = {"names": [*names], "dtype": "uint16", "range": [[0.0, 100.0]] * count}
        backbone = {"name": "resnet", "depth": 18, "mean": [0.4] * count, "std": [0.2] * count, "channels": channels}
        if weights is not None:
            backbone["weights"] = weights
        return densevit.create_model(backbone, heads={"seg": "setr"}, classes=["a", "b"])

    source = created(theirs)
    densevit.save(source, tmp_path / "model.safetensors")
    kernel = source.model.backbone.state_dict()["conv1.weight"]
    assert densevit.load(tmp_path / "model.safetensors").model.channels.names == theirs
    found = created(ours, str(tmp_path / "model.safetensors")).model.backbone.state_dict()["conv1.weight"]
    assert torch.equal(found, adapted(kernel, theirs, ours))
