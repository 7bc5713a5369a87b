"""The first layers of backbones for any channels: every family, against the same model of three channels and timm's."""

import pytest
import torch

import densevit
from densevit import registry
from densevit.channels import RGB, Channels
from densevit.config import BackboneSection
from densevit.model import backbone_from
from densevit.model.stem_channels import adapted, adapted_state
from tests.random_weights import randomise

FAMILIES = {
    "vit": {"variant": "nano", "image_size": 64},
    "vit, convolutions": {"variant": "nano", "image_size": 64, "stem": "conv"},
    "vit, resnet": {"variant": "nano", "image_size": 64, "stem": "resnet"},
    "windowed_vit": {"variant": "nano", "image_size": 64},
    "swin": {"variant": "nano"},
    "swin, convolutions": {"variant": "nano", "stem": "conv"},
    "mit": {},
    "gtr": {},
    "mvit": {"variant": "nano"},
    "mvit, convolutions": {"variant": "nano", "stem": "conv"},
    "resnet": {"depth": 18},
    "resnet, deep stem": {"depth": 18, "variant": "d"},
    "timm": {"model": "convnext_atto"},
    "timm, patches": {"model": "vit_tiny_patch16_224"},
    "timm, lite": {"model": "efficientnet_lite0"},
    **{name: {"variant": "nano"} for name in ("ceit", "cvt", "cycle_mlp", "deep_vit", "local_vit", "s2_mlp")},
    "deep_vit, patches": {"variant": "small", "features": [1, 2]},
    "vision_longformer": {"variant": "nano"},
}
NIR = ("red", "green", "blue", "nir")


def _section(family: str, names: tuple[str, ...] = RGB.names) -> BackboneSection:
    count = len(names)
    channels = Channels(names, "float32", ((0.0, 1.0),) * count)
    name, normalisation = family.partition(",")[0], {"mean": (0.5,) * count, "std": (1.0,) * count}
    return BackboneSection(name=name, channels=channels, **normalisation, **FAMILIES[family])


@pytest.mark.parametrize(
    "family", [family for family in FAMILIES if family.partition(",")[0] in registry.find("backbones")]
)
def test_every_family_takes_any_channels(family):
    plain = densevit.create_backbone(family.partition(",")[0], **FAMILIES[family])
    torch.manual_seed(0)
    three = backbone_from(_section(family))
    assert all(torch.equal(a, b) for a, b in zip(plain.state_dict().values(), three.state_dict().values(), strict=True))
    for names in (("grey",), (*NIR, "swir")):
        backbone = randomise(backbone_from(_section(family, names))).eval()
        images = torch.rand(2, len(names), 64, 96, requires_grad=True)
        features = backbone(images)
        assert [x.shape[1] for x in features] == [*backbone.channels]
        (features[-1] * torch.randn_like(features[-1])).sum().backward()
        assert images.grad.abs().amax((0, 2, 3)).all()  # every channel has an effect


@pytest.mark.parametrize("family", ["vit", "swin", "resnet, deep stem", "timm, lite"])
def test_a_grey_image_has_the_same_features_after_adapting(family):
    """Of an image with equal channels, with RGB's filters kept (of four channels), or none (of two)."""
    source = randomise(backbone_from(_section(family))).eval()
    grey = torch.rand(1, 1, 64, 96)
    expected = source(grey.expand(-1, 3, -1, -1))
    for names in (NIR, ("near", "far")):
        section = _section(family, names)
        backbone = backbone_from(section)
        state, keys = adapted_state(source.state_dict(), section, RGB.names)
        assert keys
        backbone.load_state_dict(state)
        found = backbone.eval()(grey.expand(-1, len(names), -1, -1))
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
