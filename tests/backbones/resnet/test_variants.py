"""ResNeXt, wide and D variants, synchronised norms, checkpointing, compilation and export of ResNet."""

import copy
import pickle

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

import densevit
from densevit.weights.key_mapping import translate
from densevit.weights.layouts import find
from densevit_backbones.resnet import ResNet

RESNEXT_50 = {"depth": 50, "groups": 32, "width_per_group": 4}
WIDE_50 = {"depth": 50, "width_per_group": 128}
PEERS = {
    "resnext50_32x4d": RESNEXT_50,
    "resnext101_32x8d": {"depth": 101, "groups": 32, "width_per_group": 8},
    "resnext101_64x4d": {"depth": 101, "groups": 64, "width_per_group": 4},
    "wide_resnet50_2": WIDE_50,
    "wide_resnet101_2": {"depth": 101, "width_per_group": 128},
}


def compare(resnet, reference, size, randomise, assert_equal_features):
    """In one memory layout: otherwise rounding differs, and a ReLU near 0 is open in only one of the two."""
    randomise(reference.eval())
    reference.to(memory_format=torch.channels_last)
    resnet.eval().load_state_dict({k: v for k, v in reference.state_dict().items() if not k.startswith("fc.")})

    def expected(images):
        seen = []
        stages = [reference.layer1, reference.layer2, reference.layer3, reference.layer4]
        hooks = [stage.register_forward_hook(lambda module, args, x: seen.append(x)) for stage in stages]
        reference(images)
        for hook in hooks:
            hook.remove()
        return seen

    images = torch.randn(2, 3, *size).contiguous(memory_format=torch.channels_last)
    assert_equal_features(resnet, expected, images)


def shortened(resnet):
    """The first block of each stage, which suffices for compilation and export."""
    for name in ("layer1", "layer2", "layer3", "layer4"):
        setattr(resnet, name, getattr(resnet, name)[:1])
    return resnet


@pytest.mark.parametrize("name", ["resnext50_32x4d", pytest.param("wide_resnet50_2", marks=pytest.mark.integration)])
def test_groups_and_width_match_torchvision(name, randomise, assert_equal_features):
    import torchvision

    reference = getattr(torchvision.models, name)()
    compare(ResNet(**PEERS[name]), reference, (45, 66), randomise, assert_equal_features)


@pytest.mark.parametrize(("depth", "size"), [(18, (69, 51)), pytest.param(50, (45, 66), marks=pytest.mark.integration)])
def test_variant_d_matches_timm(depth, size, randomise, assert_equal_features):
    import timm

    reference = timm.create_model(f"resnet{depth}d", pretrained=False)
    compare(ResNet(depth, variant="d"), reference, size, randomise, assert_equal_features)


@pytest.mark.integration
def test_dilated_variant_d_matches_timm(randomise, assert_equal_features):
    import timm

    reference = timm.create_model("resnet26d", pretrained=False, output_stride=16, layers=[3, 4, 6, 3])
    compare(ResNet(50, dilation=True, variant="d"), reference, (50, 39), randomise, assert_equal_features)


@pytest.mark.parity("transformers-rtdetr-resnet")
@pytest.mark.parametrize(
    ("depth", "size"),
    [(18, (69, 51)), *(pytest.param(*x, marks=pytest.mark.integration) for x in ((34, (64, 96)), (50, (45, 66))))],
)
def test_variant_vd_matches_transformers(depth, size, randomise, assert_equal_features):
    """RT-DETR's ResNet ("PResNet"), which has a projection shortcut in the first block of every stage."""
    from transformers import RTDetrResNetBackbone, RTDetrResNetConfig

    config = RTDetrResNetConfig(
        depths=[2, 2, 2, 2] if depth == 18 else [3, 4, 6, 3],
        hidden_sizes=[64, 128, 256, 512] if depth < 50 else [256, 512, 1024, 2048],
        layer_type="basic" if depth < 50 else "bottleneck",
        out_features=["stage1", "stage2", "stage3", "stage4"],
    )
    theirs = RTDetrResNetBackbone(config).eval().to(memory_format=torch.channels_last)
    randomise(theirs)
    ours = ResNet(depth, variant="vd").eval()
    translated = translate(theirs.state_dict(), find("transformers-rtdetr-resnet"))
    assert translated.unknown == [] and set(translated.tensors) == set(ours.state_dict())
    ours.load_state_dict(translated.tensors)
    images = torch.randn(2, 3, *size).contiguous(memory_format=torch.channels_last)
    assert_equal_features(ours, lambda images: theirs(images).feature_maps, images)


def test_variant_vd_is_d_with_bottlenecks():
    with torch.device("meta"):
        d, vd = (ResNet(50, variant=variant).state_dict() for variant in ("d", "vd"))
    assert {key: x.shape for key, x in d.items()} == {key: x.shape for key, x in vd.items()}


@pytest.mark.parametrize("name", PEERS)
def test_groups_and_width_have_torchvision_s_tensors(name):
    import torchvision

    with torch.device("meta"):
        ours, reference = ResNet(**PEERS[name]).state_dict(), getattr(torchvision.models, name)().state_dict()
    shapes = {key: value.shape for key, value in reference.items() if not key.startswith("fc.")}
    assert {key: value.shape for key, value in ours.items()} == shapes


@pytest.mark.parametrize(
    ("options", "millions"),
    [
        ({"depth": 50}, 25.557),
        (RESNEXT_50, 25.03),
        (WIDE_50, 68.88),
        ({"depth": 50, "variant": "d"}, 25.58),
        (PEERS["resnext101_32x8d"], 88.79),
        (PEERS["resnext101_64x4d"], 83.46),
    ],
)
def test_parameter_counts_match_the_published_classifiers(options, millions):
    with torch.device("meta"):
        resnet, classifier = ResNet(**options), nn.Linear(2048, 1000)
    count = sum(p.numel() for module in (resnet, classifier) for p in module.parameters())
    assert count / 1e6 == pytest.approx(millions, rel=0.002)


# He et al. 2016, table 1 has 3.8 G with the stride in the 1x1; 4.1 G is v1.5's. ResNeXt: Xie et al. 2017, table 1, with
# the same difference; D: He et al. 2019, table 5; wide: torchvision's own table.
@pytest.mark.parametrize(
    ("options", "gmacs"),
    [({"depth": 50}, 4.1), (RESNEXT_50, 4.23), (WIDE_50, 11.4), ({"depth": 50, "variant": "d"}, 4.35)],
)
def test_multiply_adds_at_224_match_the_published_ones(options, gmacs):
    with torch.device("meta"):
        resnet, classifier = ResNet(**options).eval(), nn.Linear(2048, 1000)
        images = torch.empty(1, 3, 224, 224)
    with FlopCounterMode(display=False) as counter:
        classifier(resnet(images)[-1].mean((2, 3)))
    assert counter.get_total_flops() / 2e9 == pytest.approx(gmacs, rel=0.015)


@pytest.mark.parametrize("norm", ["batch", "sync", "group", "frozen"])
@pytest.mark.parametrize("size", [(32, 47), (53, 61), (3, 1)], ids=str)
def test_grids_of_variants_are_the_size_over_the_stride_rounded_up(norm, size):
    resnet = ResNet(18, norm=norm, variant="d").eval()
    with torch.no_grad():
        features = resnet(torch.randn(1, 3, *size))
    assert [tuple(x.shape[1:]) for x in features] == [
        (channels, -(-size[0] // s), -(-size[1] // s))
        for channels, s in zip(resnet.channels, resnet.strides, strict=True)
    ]


@pytest.mark.parametrize("options", [{"depth": 50}, {"depth": 50, "dilation": True, "variant": "d"}, RESNEXT_50])
def test_grids_of_large_images(options):
    with torch.device("meta"):
        resnet = ResNet(**options).eval()
        for size in [(1333, 800), (1327, 1129), (641, 33)]:
            grids = [tuple(x.shape[2:]) for x in resnet(torch.empty(1, 3, *size))]
            assert grids == [(-(-size[0] // s), -(-size[1] // s)) for s in resnet.strides]


def test_every_parameter_of_a_deep_stem_has_a_gradient_and_one_depth():
    resnet = ResNet(18, variant="d")
    sum(x.square().sum() for x in resnet(torch.randn(2, 3, 70, 66))).backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in resnet.parameters())
    groups = resnet.parameter_depths()
    assert sorted(id(p) for group in groups for p in group) == sorted(id(p) for p in resnet.parameters())
    assert len(groups) == 1 + 8
    assert len(groups[0]) == 3 + 3 * 2  # three convolutions and their norms


def test_frozen_deep_stem_updates_neither_weights_nor_statistics():
    resnet = ResNet(18, variant="d", frozen_stages=1).train()
    before = {key: value.clone() for key, value in resnet.state_dict().items()}
    resnet(torch.randn(2, 3, 40, 40))[-1].sum().backward()
    after = resnet.state_dict()
    moved = {key.partition(".")[0] for key in before if not torch.equal(before[key], after[key])}
    assert moved == {"layer1", "layer2", "layer3", "layer4"}
    assert not any(p.requires_grad for p in resnet.parameter_depths()[0])


def test_synchronised_norms_on_a_cpu_are_batch_norms(randomise):
    batch, sync = ResNet(18), ResNet(18, norm="sync")
    randomise(batch)
    sync.load_state_dict(batch.state_dict())
    assert all(isinstance(m, nn.SyncBatchNorm) for name, m in sync.named_modules() if name.endswith(("bn1", "bn2")))
    images = torch.randn(2, 3, 50, 60)
    for mode in (True, False):
        for own, other in zip(sync.train(mode)(images), batch.train(mode)(images), strict=True):
            assert torch.equal(own, other)
    for key, value in batch.state_dict().items():
        assert torch.equal(value, sync.state_dict()[key])


@pytest.mark.integration
@pytest.mark.parametrize("norm", ["batch", "sync", "group", "frozen"])
@pytest.mark.parametrize("frozen_stages", [0, 2])
def test_checkpointing_preserves_gradients_and_statistics(norm, frozen_stages):
    resnet = ResNet(18, norm=norm, frozen_stages=frozen_stages)
    spared = ResNet(18, norm=norm, frozen_stages=frozen_stages, checkpointing=True)
    spared.load_state_dict(resnet.state_dict())
    images = torch.randn(2, 3, 50, 64)
    for model in (resnet, spared):
        for _ in range(2):
            sum(x.square().mean() for x in model(images)).backward()
    for own, other in zip(spared.parameters(), resnet.parameters(), strict=True):
        assert (own.grad is None and other.grad is None) or torch.equal(own.grad, other.grad)
    for key, value in resnet.state_dict().items():
        assert torch.equal(value, spared.state_dict()[key]), key


def test_checkpointing_saves_activation_memory():
    def kept(model):
        sizes = []
        with torch.autograd.graph.saved_tensors_hooks(lambda x: sizes.append(x.numel()) or x, lambda x: x):
            model(torch.randn(1, 3, 64, 64))
        return sum(sizes)

    resnet = ResNet(50, norm="group")
    weights = sum(p.numel() for p in resnet.parameters())
    spared = copy.deepcopy(resnet)
    spared.checkpointing = True
    assert kept(spared) < 0.4 * (kept(resnet) - weights)


def half_fields(depth: int) -> list[int]:
    """Receptive field to each side of a cell's centre after each stage, from kernels and strides (k, s)."""
    blocks = {18: [2, 2, 2, 2], 50: [3, 4, 6, 3]}[depth]
    reach, jump = 0.0, 1
    fields = []
    for k, s in ((7, 2), (3, 2)):
        reach, jump = reach + (k - 1) / 2 * jump, jump * s
    for stage, count in enumerate(blocks):
        for block in range(count):
            stride = 2 if stage > 0 and block == 0 else 1
            reach, jump = reach + jump, jump * stride
            reach += jump if depth < 50 else 0
        fields.append(int(reach))
    return fields


def test_padding_affects_cells_within_the_receptive_field_only(randomise):
    assert half_fields(50) == [17, 45, 133, 213]  # the docstring's
    for depth, size in ((18, 128), (50, 160)):
        resnet = ResNet(depth, norm="frozen").eval()
        randomise(resnet)
        image = torch.randn(1, 3, size, size)
        with torch.no_grad():
            alone, padded = resnet(image), resnet(F.pad(image, (0, 64, 0, 32)))
        for x, y, stride, reach in zip(alone[:3], padded, resnet.strides, half_fields(depth), strict=False):
            inside = -(-(size - reach) // stride)  # cells whose centre is further inside than that
            assert inside > 0
            torch.testing.assert_close(x[..., :inside, :inside], y[..., :inside, :inside], atol=1e-4, rtol=1e-4)
            n = x.shape[-1]
            assert (x - y[..., :n, :n]).abs()[..., -1].max() > 1e-2


@pytest.mark.integration
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("norm", ["batch", "group", "frozen"])
def test_training_in_half_precision_is_finite(dtype, norm):
    resnet = ResNet(18, norm=norm, variant="d").train()
    with torch.autocast("cpu", dtype):
        features = resnet(torch.randn(2, 3, 64, 50))
    sum(x.float().mean() for x in features).backward()
    assert all(x.isfinite().all() for x in features)
    assert all(p.grad.isfinite().all() for p in resnet.parameters())


@pytest.mark.integration
@pytest.mark.parametrize("checkpointing", [False, True])
def test_compiled_training_step_matches_eager(checkpointing):
    resnet = shortened(ResNet(18, variant="d"))
    compiled = shortened(ResNet(18, variant="d", checkpointing=checkpointing))
    compiled.load_state_dict(resnet.state_dict())
    images = torch.randn(2, 3, 40, 50)
    for model in (resnet, torch.compile(compiled, fullgraph=True, backend="aot_eager")):
        sum(x.square().mean() for x in model(images)).backward()
    for own, other in zip(compiled.parameters(), resnet.parameters(), strict=True):
        torch.testing.assert_close(own.grad, other.grad, atol=1e-5, rtol=1e-3)
    for key, value in resnet.state_dict().items():
        torch.testing.assert_close(compiled.state_dict()[key], value)


@pytest.mark.integration
def test_exported_graph_accepts_other_sizes():
    resnet = shortened(ResNet(18, norm="frozen", variant="d")).eval()
    auto = torch.export.Dim.AUTO
    images = torch.randn(2, 3, 70, 65)
    graph = torch.export.export(resnet, (images,), dynamic_shapes=({0: auto, 2: auto, 3: auto},)).module()
    for batch in (images, torch.randn(3, 3, 97, 131)):
        for own, other in zip(graph(batch), resnet(batch), strict=True):
            torch.testing.assert_close(own, other, atol=1e-5, rtol=1e-5)


def test_pickle_and_state_dict_preserve_features(randomise):
    resnet, other = ResNet(18, variant="d").eval(), ResNet(18, variant="d").eval()
    randomise(resnet)
    contiguous = {key: value.contiguous() for key, value in resnet.state_dict().items()}  # as in checkpoint files
    other.load_state_dict(contiguous)
    images = torch.randn(1, 3, 50, 60)
    for copied in (pickle.loads(pickle.dumps(resnet)), other):
        assert all(torch.equal(x, y) for x, y in zip(copied(images), resnet(images), strict=True))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"depth": 18, "groups": 32}, "groups 32 .* depth 18 has none"),
        ({"depth": 34, "width_per_group": 128}, "width_per_group 128 .* expected depth 50, 101 or 152"),
        ({"groups": 0}, "groups is 0"),
        ({"width_per_group": -4}, "width_per_group is -4"),
        ({"norm": "group", "groups": 3, "width_per_group": 5}, "3 x 5: expected a multiple of 32"),
    ],
)
def test_invalid_groups_raise(options, message):
    with pytest.raises(ValueError, match=message):
        densevit.create_backbone("resnet", **options)
