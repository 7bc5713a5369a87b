from collections import OrderedDict

import pytest
import torch
from torch import nn

import densevit
from densevit.errors import DensevitError
from densevit_backbones.resnet import ResNet
from densevit_backbones.swin import Swin
from densevit_necks.fpn import FPN

CHANNELS, STRIDES = (8, 16, 24, 40), (4, 8, 16, 32)
NO_PADDING = torch.zeros(2, 64, 64, dtype=torch.bool)  # these necks ignore it


def maps(height: int, width: int, channels=CHANNELS, strides=STRIDES) -> list[torch.Tensor]:
    """Backbone features of an image of that size."""
    return [torch.randn(2, c, -(-height // s), -(-width // s)) for c, s in zip(channels, strides, strict=True)]


@pytest.mark.parametrize("size", [(97, 131), (64, 96), (33, 250), (1, 7)], ids=str)
@pytest.mark.parametrize(
    ("strides", "extra"), [(STRIDES, 0), (STRIDES, 1), ((4, 8, 16, 16), 0), ((16, 16, 16, 16), 1)], ids=str
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


@pytest.mark.parametrize("size", [(97, 131), (33, 64), (1, 1)], ids=str)
def test_levels_are_the_size_over_the_stride_rounded_up(size):
    neck = FPN(CHANNELS, STRIDES, width=6, extra_levels=2)
    assert neck.channels == (6,) * 6
    assert neck.strides == (4, 8, 16, 32, 64, 128)
    found = [tuple(x.shape) for x in neck(maps(*size), NO_PADDING)]
    assert found == [(2, 6, -(-size[0] // s), -(-size[1] // s)) for s in neck.strides]


def test_coarse_cells_are_added_to_the_fine_cells_they_cover():
    neck = FPN((1, 1), (4, 8), width=1)
    with torch.no_grad():
        for parameter in neck.parameters():
            parameter.zero_()
        for lateral, output in zip(neck.lateral, neck.output, strict=True):
            lateral.weight.fill_(1)
            output.weight[..., 1, 1] = 1
    coarse = torch.tensor([[1.0, 2.0], [3.0, 4.0]])[None, None]
    fine = neck([torch.zeros(1, 1, 3, 4), coarse], NO_PADDING)[0]
    assert fine[0, 0].tolist() == [[1, 1, 2, 2], [1, 1, 2, 2], [3, 3, 4, 4]]


def test_extra_levels_are_subsampled_by_2():
    neck = FPN(CHANNELS, STRIDES, width=6, extra_levels=2)
    *_, coarsest, first, second = neck(maps(300, 170), NO_PADDING)
    assert torch.equal(first, coarsest[..., ::2, ::2])
    assert torch.equal(second, coarsest[..., ::4, ::4])


def test_one_map_is_enough():
    neck = FPN((24,), (16,), width=8, extra_levels=1)
    features = maps(50, 70, (24,), (16,))
    assert [tuple(x.shape) for x in neck(features, NO_PADDING)] == [(2, 8, 4, 5), (2, 8, 2, 3)]


def test_features_are_not_modified():
    features = maps(50, 70)
    before = [x.clone() for x in features]
    FPN(CHANNELS, STRIDES)(features, NO_PADDING)
    assert all(torch.equal(x, y) for x, y in zip(features, before, strict=True))


@pytest.mark.integration
@pytest.mark.parametrize("name", ["swin", "resnet", "dilated", "plain"])
def test_detr_trains_with_the_neck(name, plain, train_a_step):
    backbones = {"swin": lambda: Swin("nano"), "resnet": lambda: ResNet(18), "plain": plain}
    backbone = backbones[name]() if name in backbones else ResNet(18, dilation=True)
    neck = densevit.registry.create(
        "necks", "fpn", backbone.channels, backbone.strides, options={"width": 32}, where=""
    )
    train_a_step(backbone, neck)
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in neck.parameters())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_half_precision_is_finite_and_near_fp32(dtype):
    neck, features = FPN(CHANNELS, STRIDES), maps(50, 70)
    with torch.autocast("cpu", dtype):
        low = neck(features, NO_PADDING)
    for x, y in zip(low, neck(features, NO_PADDING), strict=True):
        assert (x.float() - y).norm() < 0.05 * y.norm()


def test_an_exported_graph_gives_the_same_outputs():
    neck, features = FPN(CHANNELS, STRIDES, width=8, extra_levels=1), maps(97, 131)
    graph = torch.export.export(neck, (features, NO_PADDING)).module()
    for x, y in zip(graph(features, NO_PADDING), neck(features, NO_PADDING), strict=True):
        torch.testing.assert_close(x, y)


@pytest.mark.parametrize(
    ("option", "value"), [("width", 0), ("extra_levels", -1), ("width", "wide"), ("extra_levels", True)]
)
def test_invalid_options_raise(option, value):
    with pytest.raises((DensevitError, ValueError), match=f"{option}.*(expected|should be)"):
        densevit.registry.create("necks", "fpn", CHANNELS, STRIDES, options={option: value}, where="neck")
