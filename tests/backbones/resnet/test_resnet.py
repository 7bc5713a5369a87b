"""ResNet beside torchvision's, timm's and transformers', with random weights; norms and frozen stages."""

from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from densevit.layouts import find
from densevit_backbones.resnet import ResNet
from densevit_checkpoints.key_mapping import translate
from tests.backbones.references import load as load_by_layout
from tests.backbones.references import stage_maps
from tests.random_weights import randomise

INTEGRATION = pytest.mark.integration


def torchvision_model(name: str, norm: str = "batch") -> nn.Module:
    import torchvision

    options = {"norm_layer": lambda channels: nn.GroupNorm(32, channels)} if norm == "group" else {}
    return getattr(torchvision.models, name)(**options)


def load(resnet: ResNet, reference: nn.Module) -> None:
    """Loads all weights of the reference by its layout; every tensor of ours must be set.

    The reference gets our memory layout: in another one torch rounds differently, and a ReLU near 0 is then closed in
    one model and open in the other, which changes gradients by several per cent (torchvision's own, too).
    """
    reference.to(memory_format=torch.channels_last)
    load_by_layout(resnet, reference.state_dict())


def random_images(*size: int) -> Tensor:
    return torch.randn(2, 3, *size).contiguous(memory_format=torch.channels_last)


def timm_model(name: str, **options: Any) -> nn.Module:
    import timm

    return timm.create_model(name, pretrained=False, **options)


RESNET_50D = partial(timm_model, "resnet26d", output_stride=16, layers=[3, 4, 6, 3])


@pytest.mark.parity("torchvision-resnet", "timm-resnet")
@pytest.mark.parametrize(
    ("make", "options", "size"),
    [
        (partial(torchvision_model, "resnet18"), {"depth": 18}, (97, 131)),
        (partial(torchvision_model, "resnet18", norm="group"), {"depth": 18, "norm": "group"}, (71, 64)),
        pytest.param(
            partial(torchvision_model, "resnext50_32x4d"),
            {"depth": 50, "groups": 32, "width_per_group": 4},
            (45, 66),
            marks=INTEGRATION,
        ),
        pytest.param(partial(timm_model, "resnet18d"), {"depth": 18, "variant": "d"}, (69, 51), marks=INTEGRATION),
        pytest.param(RESNET_50D, {"depth": 50, "variant": "d", "dilation": True}, (50, 39), marks=INTEGRATION),
    ],
    ids=["18", "18 with groups", "next 50", "18d", "50d dilated"],
)
def test_features_and_gradients_match_torchvision_and_timm(make, options, size, assert_equal_features):
    resnet, reference = ResNet(**options).eval(), make().eval()
    randomise(reference)
    load(resnet, reference)
    assert_equal_features(resnet, lambda images: stage_maps(reference, images), random_images(*size))


@pytest.mark.integration
@pytest.mark.parity("transformers-rtdetr-resnet")
def test_variant_vd_matches_transformers(assert_equal_features):
    """RT-DETR's ResNet ("PResNet"), which has a projection shortcut in the first block of every stage."""
    from transformers import RTDetrResNetBackbone, RTDetrResNetConfig

    config = RTDetrResNetConfig(
        depths=[2, 2, 2, 2],
        hidden_sizes=[64, 128, 256, 512],
        layer_type="basic",
        out_features=["stage1", "stage2", "stage3", "stage4"],
    )
    theirs = RTDetrResNetBackbone(config).eval().to(memory_format=torch.channels_last)
    randomise(theirs)
    ours = ResNet(18, variant="vd").eval()
    translated = translate(theirs.state_dict(), find("transformers-rtdetr-resnet"))
    assert translated.unknown == [] and set(translated.tensors) == set(ours.state_dict())
    ours.load_state_dict(translated.tensors)
    assert_equal_features(ours, lambda images: theirs(images).feature_maps, random_images(69, 51))


def test_batch_norms_in_training_match_torchvision():
    """Outputs and running statistics; synchronised norms on a CPU are the same."""
    reference = torchvision_model("resnet18").train()
    for module in reference.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 0.01
    randomise(reference)
    images = torch.randn(3, 3, 64, 70)
    resnets = [ResNet(18, norm=norm, norm_momentum=0.01).train() for norm in ("batch", "sync")]
    for resnet in resnets:
        load(resnet, reference)
    expected = stage_maps(reference, images)
    for resnet in resnets:
        for own, other in zip(resnet(images), expected, strict=True):
            torch.testing.assert_close(own, other, atol=1e-4, rtol=1e-4)
        for key, value in resnet.state_dict().items():
            torch.testing.assert_close(value, reference.state_dict()[key])
    assert sum(isinstance(module, nn.SyncBatchNorm) for module in resnets[1].modules()) == 20


def test_frozen_norms_match_torchvision_in_evaluation(assert_equal_features):
    """In training too, and their statistics and weights are fixed. Gradients in float64: the two round differently."""
    resnet, reference = ResNet(18, norm="frozen"), torchvision_model("resnet18").eval()
    randomise(reference)
    load(resnet, reference)
    before = {name: buffer.clone() for name, buffer in resnet.named_buffers()}
    images = random_images(33, 50)
    with torch.no_grad():
        for own, other in zip(resnet.train()(images), stage_maps(reference, images), strict=True):
            torch.testing.assert_close(own, other, atol=1e-4, rtol=1e-4)
    assert all(torch.equal(buffer, before[name]) for name, buffer in resnet.named_buffers())
    assert not [name for name, p in resnet.named_parameters() if p.ndim == 1]
    resnet.double(), reference.double()
    assert_equal_features(resnet, lambda images: stage_maps(reference, images), images.double())


STAGES = ("conv1", "bn1", "layer1", "layer2", "layer3", "layer4")


@pytest.mark.parametrize(("frozen_stages", "frozen"), [(1, 2), (5, 6)])
def test_frozen_stages_update_neither_weights_nor_statistics(frozen_stages, frozen):
    """The stem's are the first; with three convolutions too."""
    resnet = ResNet(18, variant="d", frozen_stages=frozen_stages)
    assert {name for name in STAGES if not getattr(resnet, name).training} == set(STAGES[:frozen])
    still = {name.partition(".")[0] for name, p in resnet.named_parameters() if not p.requires_grad}
    assert still == set(STAGES[:frozen])
    if frozen_stages < 5:
        resnet.eval().train()
        before = {key: value.clone() for key, value in resnet.state_dict().items()}
        resnet(torch.randn(2, 3, 40, 40))[-1].sum().backward()
        torch.optim.SGD([p for p in resnet.parameters() if p.requires_grad], lr=0.1).step()
        after = resnet.state_dict()
        changed = {key.partition(".")[0] for key in before if not torch.equal(after[key], before[key])}
        assert changed == set(STAGES[frozen:])
