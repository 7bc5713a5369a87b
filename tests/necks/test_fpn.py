"""The feature pyramid network beside torchvision's, in half precision and exported."""

from collections import OrderedDict

import pytest
import torch
from torch import nn

import densevit
from densevit.errors import DensevitError
from densevit_necks.fpn import FPN

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
    assert len(found) == len(expected) == 4 + extra
    for x, y in zip(found, expected, strict=True):
        torch.testing.assert_close(x, y, atol=1e-5, rtol=1e-5)
    for results in (found, expected):
        torch.stack([x.square().sum() for x in results]).sum().backward()
    for x, y in zip(own, other, strict=True):
        torch.testing.assert_close(x.grad, y.grad, atol=1e-4, rtol=1e-4)


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


@pytest.mark.parametrize(("option", "value"), [("width", 0), ("extra_levels", -1), ("width", "wide")])
def test_invalid_options_raise(option, value):
    with pytest.raises((DensevitError, ValueError), match=f"{option}.*(expected|should be)"):
        densevit.registry.create("necks", "fpn", CHANNELS, STRIDES, options={option: value}, where="neck")
