"""The feature pyramid network beside torchvision's, the simple pyramid beside ViTDet's levels, and the projector under
any backbone; it is compared with transformers' in tests/checkpoints/layouts."""

from collections import OrderedDict

import pytest
import torch
from torch import nn

import densevit
from densevit.errors import DensevitError
from densevit_necks.fpn import FPN
from densevit_necks.projector import Projector
from densevit_necks.simple_pyramid import SimplePyramid
from tests.gradient_comparison import assert_same_with_gradients

CHANNELS, STRIDES = (8, 16, 24, 40), (4, 8, 16, 32)
NO_PADDING = torch.zeros(2, 64, 64, dtype=torch.bool)  # these necks ignore it


def maps(height: int, width: int, channels=CHANNELS, strides=STRIDES) -> list[torch.Tensor]:
    """Backbone features of an image of that size."""
    return [torch.randn(2, c, -(-height // s), -(-width // s)) for c, s in zip(channels, strides, strict=True)]


@pytest.mark.parametrize(
    ("size", "strides", "extra"),
    [((97, 131), STRIDES, 1), ((33, 250), (4, 8, 16, 16), 0), ((1, 7), (16, 16, 16, 16), 1)],
    ids=str,
)
def test_outputs_and_gradients_match_torchvision(size, strides, extra):
    from torchvision.ops import FeaturePyramidNetwork
    from torchvision.ops.feature_pyramid_network import LastLevelMaxPool

    neck = FPN(CHANNELS, strides, width=12, extra_levels=extra)
    reference = FeaturePyramidNetwork(list(CHANNELS), 12, LastLevelMaxPool() if extra else None)
    for parameter in reference.parameters():
        nn.init.normal_(parameter, 0, 0.3)
    given = reference.state_dict()
    for key in neck.state_dict():
        theirs = key.replace("lateral", "inner_blocks").replace("output", "layer_blocks")
        neck.state_dict()[key].copy_(given.pop(theirs.replace(".weight", ".0.weight").replace(".bias", ".0.bias")))
    assert not given
    features = maps(*size, strides=strides)
    own, other = ([x.clone().requires_grad_() for x in features] for _ in range(2))
    found = neck(own, NO_PADDING)
    expected = list(reference(OrderedDict(enumerate(other))).values())
    assert len(found) == 4 + extra
    assert_same_with_gradients(found, expected, own, other, of_gradients=1e-4)


def test_extra_levels_half_precision_and_export():
    """Of features that the neck leaves as they are; extra levels take every second cell."""
    neck, features = FPN(CHANNELS, STRIDES, width=8, extra_levels=2), maps(97, 131)
    before = [x.clone() for x in features]
    found = neck(features, NO_PADDING)
    assert neck.channels == (8,) * 6 and neck.strides == (4, 8, 16, 32, 64, 128)
    assert [tuple(x.shape) for x in found] == [(2, 8, -(-97 // s), -(-131 // s)) for s in neck.strides]
    assert torch.equal(found[4], found[3][..., ::2, ::2]) and torch.equal(found[5], found[3][..., ::4, ::4])
    assert all(torch.equal(x, y) for x, y in zip(features, before, strict=True))
    with torch.autocast("cpu", torch.float16):
        low = neck(features, NO_PADDING)
    for x, y in zip(low, found, strict=True):
        assert (x.float() - y).norm() < 0.05 * y.norm()
    graph = torch.export.export(neck, (features, NO_PADDING)).module()
    torch.testing.assert_close(list(graph(features, NO_PADDING)), list(found))


def vitdet(dim: int, width: int) -> nn.ModuleList:
    """The paper's four levels from stride 16 (section 3 and appendix A.2), as detectron2 builds them."""

    from torchvision.models.convnext import LayerNorm2d

    def norm(channels):
        return LayerNorm2d(channels, eps=1e-6)

    def smooth(inputs):
        first, second = nn.Conv2d(inputs, width, 1, bias=False), nn.Conv2d(width, width, 3, padding=1, bias=False)
        return [first, norm(width), second, norm(width)]

    def deconvolution(inputs):
        return nn.ConvTranspose2d(inputs, inputs // 2, kernel_size=2, stride=2)

    quarter = [deconvolution(dim), norm(dim // 2), nn.GELU(), deconvolution(dim // 2), *smooth(dim // 4)]
    levels = (quarter, [deconvolution(dim), *smooth(dim // 2)], smooth(dim), [nn.MaxPool2d(2, 2), *smooth(dim)])
    return nn.ModuleList(nn.Sequential(*level) for level in levels)


def test_the_pyramid_s_outputs_and_gradients_match_vitdet():
    neck, reference = SimplePyramid((5, 48), (16, 16), width=20), vitdet(48, 20)
    for name, parameter in reference.named_parameters():
        nn.init.normal_(parameter, 1.0 if parameter.ndim == 1 and name.endswith("weight") else 0.0, 0.3)
    neck.load_state_dict({f"levels.{key}": value for key, value in reference.state_dict().items()})
    x = torch.randn(2, 48, 6, 10)
    own, other = x.clone().requires_grad_(), x.clone().requires_grad_()
    found, expected = neck([torch.randn(2, 5, 6, 10), own], NO_PADDING), [level(other) for level in reference]
    assert_same_with_gradients(found, expected, [own], [other], 1e-4)


BACKBONES = {
    "windowed_vit": {"variant": "nano"},
    "swin": {"variant": "nano"},
    "timm convnext": {"model": "convnext_atto"},
    "timm vit": {"model": "vit_tiny_patch16_224"},
}


@pytest.mark.integration
@pytest.mark.parametrize(("name", "norm"), [*dict.fromkeys(BACKBONES, "layer").items(), ("swin", "batch")])
def test_the_projector_takes_the_features_of_any_backbone(name, norm):
    """All of them: each feature and each parameter has a gradient; in half precision and exported, too."""
    backbone = densevit.create_backbone(name.split()[0], **BACKBONES[name])
    assert Projector(backbone.channels, backbone.strides).strides == (16,)
    neck = Projector(backbone.channels, backbone.strides, 16, (4, 8, 16, 32), norm).eval()
    with torch.no_grad():
        features = backbone.eval()(torch.randn(2, 3, 64, 96))
    inputs = [x.clone().requires_grad_() for x in features]
    found = neck(inputs, NO_PADDING)
    assert neck.channels == (16,) * 4 and neck.strides == (4, 8, 16, 32)
    assert [tuple(x.shape) for x in found] == [(2, 16, 64 // s, 96 // s) for s in neck.strides]
    torch.stack([(x * torch.randn_like(x)).sum() for x in found]).sum().backward()
    assert all(x.grad.ne(0).any() for x in inputs) and all(p.grad.ne(0).any() for p in neck.parameters())
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        low = neck(features, NO_PADDING)
    for x, y in zip(low, found, strict=True):
        assert (x.float() - y).norm() < 0.06 * y.norm()
    graph = torch.export.export(neck, (features, NO_PADDING)).module()
    torch.testing.assert_close(list(graph(features, NO_PADDING)), list(found))


@pytest.mark.parametrize(
    ("name", "channels", "stride", "options", "facts"),
    [
        ("fpn", 8, 4, {"width": 0}, "width.*(expected|should be)"),
        ("simple_pyramid", 32, 14, {"pyramid_strides": (4, 8)}, r"has 4.* stride 14.*\(7, 14, 28, 56\)"),
        ("simple_pyramid", 32, 16, {"pyramid_strides": (8, 24)}, r"has 24.*\(4, 8, 16, 32\)"),
        ("projector", 32, 16, {"width": 3}, "width is 3; expected an even number"),
        ("projector", 32, 16, {"norm": "group"}, "norm"),
        ("bilinear", 8, 14, {"stride": 5}, "5; expected a divisor.*14"),
        ("naf", 8, 14, {"stride": 5}, "5; expected a divisor.*14"),
        ("naf", 8, 14, {"width": 40}, "40; expected a multiple of 32"),
        ("naf", 6, 14, {}, "6 channels"),
    ],
)
def test_invalid_options_raise(name, channels, stride, options, facts):
    with pytest.raises((DensevitError, ValueError), match=facts):
        densevit.create_neck(name, (channels,), (stride,), **options)


def test_the_projector_of_gtr_downsamples_with_silu():
    """The neck of the published GTR-S has 3,270,816 parameters. All activations are SiLU."""
    neck = Projector((192,) * 3, (16,) * 3, 192, (8, 16, 32), downsampling_activation="silu")
    assert sum(p.numel() for p in neck.parameters()) == 3270816
    for level in neck.levels:
        assert not [part for part in level.modules() if isinstance(part, nn.ReLU)]
    x = torch.randn(1, 192, 4, 6)
    convolution, norm = neck.levels[2].samplings[0][0][:2]
    torch.testing.assert_close(neck.levels[2].samplings[0](x), torch.nn.functional.silu(norm(convolution(x))))
