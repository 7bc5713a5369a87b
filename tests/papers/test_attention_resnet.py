"""The ResNet of attention layers: torchvision's without attention, any image size, and the contract of backbones."""

from functools import partial

import pytest
import torch
from torch import nn

import densevit
from densevit.errors import DensevitError
from densevit.testing import check_backbone
from densevit_papers.attention_resnet import AttentionResNet
from densevit_papers.axial import Axial
from densevit_papers.lr_net import LocalRelations
from densevit_papers.non_local import NonLocal
from densevit_papers.sagan import SelfAttention
from densevit_papers.sasa import StandAlone
from tests.papers.cnn_attention import cost, randomise

SMALL = {
    "non_local": {"non_local": NonLocal(1)},
    "gaussian": {"non_local": NonLocal(1, "gaussian")},
    "sagan": {"sagan": SelfAttention((1, 3))},
    "sasa": {"sasa": StandAlone(3, num_heads=2, stages=(2, 4))},
    "sasa_stem": {"sasa": StandAlone(3, stem="attention", stages=())},
    "lr_net": {"lr_net": LocalRelations(7, stages=(2, 4))},
    "axial": {"axial": Axial(num_heads=2, span=9, stages=(2, 4))},
}
small = partial(AttentionResNet, depth=26, width=0.125)


def trained(**options) -> AttentionResNet:
    """Without the zeros that norms of Axial-ResNet have at first, with which features depend on few pixels."""
    resnet = small(**options)
    for name, parameter in resnet.named_parameters():
        if name.endswith("bn3.weight"):
            nn.init.ones_(parameter)
    return resnet


@pytest.mark.integration
@pytest.mark.parametrize("attention", SMALL)
def test_the_backbone_passes_the_contract_tests(attention):
    check_backbone(partial(trained, **SMALL[attention]))


def torchvision_features(reference: nn.Module, images: torch.Tensor) -> list[torch.Tensor]:
    x = reference.maxpool(reference.relu(reference.bn1(reference.conv1(images))))
    return [x := stage(x) for stage in (reference.layer1, reference.layer2, reference.layer3, reference.layer4)]


@pytest.mark.integration
@pytest.mark.parametrize("training", [False, True])
def test_without_attention_it_is_torchvision_s_resnet_50(training):
    """Features, gradients and running statistics are bit-identical."""
    import torchvision

    ours, reference = AttentionResNet().train(training), torchvision.models.resnet50().train(training)
    randomise(reference)
    ours.load_state_dict({key: x for key, x in reference.state_dict().items() if not key.startswith("fc.")})
    images = torch.randn(2, 3, 64, 75)
    found, expected = ours(images), torchvision_features(reference, images)
    assert all(torch.equal(x, y) for x, y in zip(found, expected, strict=True))
    for features in (found, expected):
        torch.stack([x.square().mean() for x in features]).sum().backward()
    gradients = {name: p.grad for name, p in reference.named_parameters() if not name.startswith("fc.")}
    assert all(torch.equal(p.grad, gradients[name]) for name, p in ours.named_parameters())
    assert all(torch.equal(x, reference.state_dict()[key]) for key, x in ours.state_dict().items())


@pytest.mark.integration
@pytest.mark.parametrize(("depth", "millions", "billions"), [(26, 13.7, 4.7), (38, 19.6, 6.5), (50, 25.6, 8.2)])
def test_cost_without_attention_is_that_of_the_baselines(depth, millions, billions):
    """Ramachandran et al. 2019, table 1: floating-point operations, two per multiply-add."""
    found = cost(depth=depth)
    assert found[0] == pytest.approx(millions, abs=0.05) and 2 * found[1] == pytest.approx(billions, abs=0.1)


@pytest.mark.parametrize("attention", SMALL)
def test_maps_are_the_size_over_the_stride_rounded_up(attention):
    """Also on maps larger than the span of axial attention, and smaller than a window."""
    resnet = trained(**SMALL[attention]).eval()
    for size in [(97, 131), (64, 40), (5, 33), (1, 1)]:
        with torch.no_grad():
            features = resnet(torch.randn(2, 3, *size))
        for x, channels, s in zip(features, resnet.channels, resnet.strides, strict=True):
            assert x.shape == (2, channels, -(-size[0] // s), -(-size[1] // s)) and x.isfinite().all()


@pytest.mark.parametrize("attention", SMALL)
def test_depths_have_each_parameter_once(attention):
    resnet = small(**SMALL[attention])
    depths = [id(p) for group in resnet.parameter_depths() for p in group]
    assert len(depths) == len({*depths}) and {*depths} == {id(p) for p in resnet.parameters()}


def test_depths_have_inserted_blocks_beside_their_residual_block():
    resnet = small(non_local=NonLocal(1))  # blocks of 1, 2, 4 and 1 after the stem; position 2 of the third stage
    own = {id(p) for p in [*resnet.layer3[2].parameters(), *resnet.inserted["3_2"].parameters()]}
    assert {id(p) for p in resnet.parameter_depths()[1 + 1 + 2 + 2]} == own


def test_sections_of_a_config_become_options():
    resnet = densevit.create_backbone(
        "attention_resnet", depth=26, width=0.125, sasa={"num_heads": 2, "kernel_size": 3}
    )
    assert resnet.layer1[0].conv2.kernel_size == 3 and resnet.layer1[0].conv2.num_heads == 2
    with pytest.raises(DensevitError, match=r"sasa\.heads.*num_heads"):
        densevit.create_backbone("attention_resnet", sasa={"heads": 2})


def test_two_kinds_of_attention_are_refused():
    with pytest.raises(ValueError, match="sagan, axial are given; at most one of non_local, sagan, sasa"):
        AttentionResNet(sagan=SelfAttention(), axial=Axial())


@pytest.mark.parametrize("width", [0, -1, 0.3])
def test_widths_without_a_whole_number_of_channels_are_refused(width):
    with pytest.raises(ValueError, match="64 times the width must be a whole number of channels"):
        AttentionResNet(width=width)
