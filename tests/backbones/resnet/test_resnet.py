import pytest
import torch
from torch import Tensor, nn

import densevit
from densevit.layers.norms import FrozenBatchNorm2d
from densevit_backbones.resnet import ResNet


def torchvision_resnet(depth: int, dilation: bool = False, norm: str = "batch") -> nn.Module:
    import torchvision

    options = {"norm_layer": lambda channels: nn.GroupNorm(32, channels)} if norm == "group" else {}
    make = getattr(torchvision.models, f"resnet{depth}")
    return make(replace_stride_with_dilation=[False, False, dilation], **options)


def torchvision_features(reference: nn.Module, images: Tensor) -> list[Tensor]:
    x = reference.maxpool(reference.relu(reference.bn1(reference.conv1(images))))
    features = []
    for stage in (reference.layer1, reference.layer2, reference.layer3, reference.layer4):
        x = stage(x)
        features.append(x)
    return features


def load(resnet: ResNet, reference: nn.Module) -> None:
    """Loads all weights of the reference except the classifier's; every tensor of ours must be set.

    The reference gets our memory layout: in another one torch rounds differently, and a ReLU near 0 is then closed in
    one model and open in the other, which changes gradients by several per cent (torchvision's own, too).
    """
    reference.to(memory_format=torch.channels_last)
    resnet.load_state_dict({k: v for k, v in reference.state_dict().items() if not k.startswith("fc.")})


def random_images(*size: int) -> Tensor:
    return torch.randn(2, 3, *size).contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize(
    ("depth", "dilation", "norm", "size"),
    [
        (18, False, "batch", (97, 131)),
        (18, False, "group", (71, 64)),
        (50, False, "batch", (64, 75)),
        (50, True, "batch", (65, 50)),
        pytest.param(101, False, "batch", (37, 71), marks=pytest.mark.integration),
    ],
)
def test_features_and_gradients_match_torchvision(depth, dilation, norm, size, randomise, assert_equal_features):
    resnet = ResNet(depth, dilation=dilation, norm=norm).eval()
    reference = torchvision_resnet(depth, dilation, norm).eval()
    randomise(reference)
    load(resnet, reference)
    assert_equal_features(resnet, lambda images: torchvision_features(reference, images), random_images(*size))


@pytest.mark.parametrize(("depth", "size"), [(18, (33, 50)), (50, (64, 75))])
def test_frozen_norms_match_torchvision_in_evaluation(depth, size, randomise, assert_equal_features):
    """Gradients in float64: the two round differently (see `load`)."""
    resnet, reference = ResNet(depth, norm="frozen"), torchvision_resnet(depth).eval()
    randomise(reference)
    load(resnet, reference)
    images = random_images(*size)
    with torch.no_grad():
        for own, other in zip(resnet(images), torchvision_features(reference, images), strict=True):
            torch.testing.assert_close(own, other, atol=1e-4, rtol=1e-4)
    resnet.double(), reference.double()
    assert_equal_features(resnet, lambda images: torchvision_features(reference, images), images.double())


@pytest.mark.integration
@pytest.mark.parametrize(("depth", "dilation"), [(18, False), (50, True)])
def test_features_and_gradients_match_timm(depth, dilation, randomise, assert_equal_features):
    import timm

    options = {"output_stride": 16} if dilation else {}
    resnet = ResNet(depth, dilation).eval()
    reference = timm.create_model(f"resnet{depth}", pretrained=False, **options).eval()
    randomise(reference)
    load(resnet, reference)
    assert_equal_features(
        resnet,
        lambda images: reference.forward_intermediates(images, indices=[1, 2, 3, 4], intermediates_only=True),
        random_images(67, 90),
    )


def test_batch_norm_training_matches_torchvision(randomise):
    resnet, reference = ResNet(18).train(), torchvision_resnet(18).train()
    randomise(reference)
    load(resnet, reference)
    images = torch.randn(3, 3, 64, 70)
    for own, other in zip(resnet(images), torchvision_features(reference, images), strict=True):
        torch.testing.assert_close(own, other, atol=1e-4, rtol=1e-4)
    for key, value in resnet.state_dict().items():
        torch.testing.assert_close(value, reference.state_dict()[key])


@pytest.mark.parametrize(("depth", "dilation"), [(18, False), (34, False), (50, True), (101, False), (152, False)])
def test_all_depths_have_torchvision_s_tensors(depth, dilation):
    with torch.device("meta"):
        ours, reference = ResNet(depth, dilation=dilation).state_dict(), torchvision_resnet(depth).state_dict()
    shapes = {key: value.shape for key, value in reference.items() if not key.startswith("fc.")}
    assert {key: value.shape for key, value in ours.items()} == shapes


@pytest.mark.parametrize(
    ("depth", "published"),
    [(18, 11_689_512), (34, 21_797_672), (50, 25_557_032), (101, 44_549_160), (152, 60_192_808)],
)
def test_parameter_counts_match_the_published_classifiers(depth, published):
    with torch.device("meta"):
        resnet = ResNet(depth)
        classifier = nn.Linear(resnet.channels[-1], 1000)
    assert sum(p.numel() for module in (resnet, classifier) for p in module.parameters()) == published


def test_detr_backbone_has_detr_s_trainable_parameter_count():
    with torch.device("meta"):
        resnet = ResNet(50, norm="frozen", frozen_stages=2)
    attention, feedforward, norm = 4 * (256 * 256 + 256), 256 * 2048 + 2048 + 2048 * 256 + 256, 2 * 256
    encoder = 6 * (attention + feedforward + 2 * norm)
    decoder = 6 * (2 * attention + feedforward + 3 * norm) + norm
    projection, queries = 2048 * 256 + 256, 100 * 256
    heads = 256 * 92 + 92 + 2 * (256 * 256 + 256) + 256 * 4 + 4
    published = 41_302_368  # of DETR-R50, stem and first stage frozen
    trained = sum(p.numel() for p in resnet.parameters() if p.requires_grad)
    assert trained == published - encoder - decoder - projection - queries - heads


@pytest.mark.parametrize(("depth", "dilation"), [(18, False), (50, True)])
def test_grids_are_the_size_over_the_stride_rounded_up(depth, dilation):
    resnet = densevit.create_backbone("resnet", depth=depth, dilation=dilation).eval()
    for size in [(32, 47), (53, 131), (61, 62), (101, 33), (199, 36), (3, 1)]:
        with torch.no_grad():
            features = resnet(torch.randn(1, 3, *size))
        assert [x.shape[1] for x in features] == [*resnet.channels]
        assert [tuple(x.shape[2:]) for x in features] == [(-(-size[0] // s), -(-size[1] // s)) for s in resnet.strides]


FROZEN = [
    (),
    ("conv1", "bn1"),
    ("conv1", "bn1", "layer1"),
    ("conv1", "bn1", "layer1", "layer2"),
    ("conv1", "bn1", "layer1", "layer2", "layer3"),
    ("conv1", "bn1", "layer1", "layer2", "layer3", "layer4"),
]


@pytest.mark.parametrize("frozen_stages", range(6))
def test_frozen_stages_update_neither_weights_nor_statistics(frozen_stages):
    resnet = ResNet(18, frozen_stages=frozen_stages)
    assert {name for name in FROZEN[5] if not getattr(resnet, name).training} == set(FROZEN[frozen_stages])
    still = {name.partition(".")[0] for name, p in resnet.named_parameters() if not p.requires_grad}
    assert still == set(FROZEN[frozen_stages])
    if frozen_stages < 5:
        for mode in (False, True):
            resnet.train(mode)
        before = {key: value.clone() for key, value in resnet.state_dict().items()}
        resnet(torch.randn(2, 3, 64, 64))[-1].sum().backward()
        torch.optim.SGD([p for p in resnet.parameters() if p.requires_grad], lr=0.1).step()
        after = resnet.state_dict()
        changed = {key.partition(".")[0] for key in before if not torch.equal(after[key], before[key])}
        assert changed == set(FROZEN[5]) - set(FROZEN[frozen_stages])


def test_frozen_norms_are_equal_in_training_and_evaluation(randomise):
    resnet = ResNet(18, norm="frozen").train()
    randomise(resnet)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in resnet.modules())
    before = {name: buffer.clone() for name, buffer in resnet.named_buffers()}
    images = torch.randn(2, 3, 40, 40)
    training = resnet(images)[-1]
    assert torch.equal(training, resnet.eval()(images)[-1])
    assert all(torch.equal(buffer, before[name]) for name, buffer in resnet.named_buffers())
    assert not [n for n, p in resnet.named_parameters() if p.ndim == 1]


def test_group_norm_has_no_batch_statistics(randomise):
    resnet = ResNet(18, norm="group").train()
    randomise(resnet)
    images = torch.randn(3, 3, 50, 64)
    torch.testing.assert_close(resnet(images)[-1][1:2], resnet(images[1:2])[-1], atol=1e-4, rtol=1e-4)
    assert not any(isinstance(module, nn.BatchNorm2d | FrozenBatchNorm2d) for module in resnet.modules())


@pytest.mark.parametrize(("depth", "norm"), [(18, "batch"), (50, "group"), (50, "frozen")])
def test_every_parameter_has_a_gradient_and_one_depth(depth, norm):
    resnet = ResNet(depth, norm=norm)
    sum(x.square().sum() for x in resnet(torch.randn(2, 3, 70, 66))).backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in resnet.parameters())
    grouped = [id(p) for group in resnet.parameter_depths() for p in group]
    assert sorted(grouped) == sorted(id(p) for p in resnet.parameters())


def test_layer_depths_increase_from_stem_to_last_block():
    with torch.device("meta"):
        resnet = ResNet(50)
    names = {id(p): name for name, p in resnet.named_parameters()}
    depths = [{names[id(p)].split(".conv")[0] for p in group if p.ndim == 4} for group in resnet.parameter_depths()]
    assert len(depths) == 1 + 3 + 4 + 6 + 3
    assert depths[0] == {"conv1.weight"}
    assert [min(names) for names in depths[-3:]] == ["layer4.0", "layer4.1", "layer4.2"]


def test_evaluation_is_deterministic_and_independent_of_the_batch(randomise):
    resnet = ResNet(18).eval()
    randomise(resnet)
    images = torch.randn(3, 3, 45, 75)
    with torch.no_grad():
        batch, again, alone = resnet(images), resnet(images), resnet(images[1:2])
    for x, y, z in zip(batch, again, alone, strict=True):
        assert torch.equal(x, y)
        torch.testing.assert_close(x[1:2], z, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("norm", ["batch", "frozen", "group"])
def test_bf16_is_finite_and_near_fp32(norm, randomise):
    resnet = ResNet(18, norm=norm).eval()
    randomise(resnet)
    images = torch.randn(1, 3, 64, 64)
    with torch.autocast("cpu", torch.bfloat16):
        low = resnet(images)
    for x, y in zip(low, resnet(images), strict=True):
        assert x.isfinite().all()
        assert (x.float() - y).norm() < 0.05 * y.norm()


@pytest.mark.parametrize("norm", ["frozen", "batch", "sync", "group"])
def test_all_norms_have_the_epsilon(norm):
    for eps in (1e-5, 1e-3):
        options = {} if eps == 1e-5 else {"norm_eps": eps}
        resnet = ResNet(18, norm=norm, **options)
        assert {module.eps for module in resnet.modules() if hasattr(module, "eps")} == {eps}


def test_invalid_norm_eps_is_refused():
    with pytest.raises(ValueError, match="norm_eps is 0; it must be above 0 and below 1"):
        ResNet(18, norm_eps=0.0)


@pytest.mark.parametrize(
    ("option", "value"), [("depth", 77), ("norm", "layer"), ("frozen_stages", 6), ("variant", "c")]
)
def test_invalid_options_raise_before_construction(option, value):
    with pytest.raises(densevit.DensevitError, match=option):
        densevit.create_backbone("resnet", **{option: value})
