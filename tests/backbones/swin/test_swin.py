import copy
import pickle
import re
from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import densevit
from densevit.layers.windows import relative_position_index
from densevit_backbones.swin import Swin

if TYPE_CHECKING:
    from torchvision.models.swin_transformer import SwinTransformer as TorchvisionSwin


# Their parameter names and ours. We normalise each feature, they the classifier's input.
FROM_TORCHVISION = [
    (r"^features\.0\.0\.", "patch_embed."),
    (r"^features\.0\.2\.", "patch_norm."),
    (r"^features\.([246])\.", lambda m: f"stages.{int(m[1]) // 2}.0."),
    (r"^features\.1\.(\d+)\.", r"stages.0.\1."),
    (r"^features\.([357])\.(\d+)\.", lambda m: f"stages.{int(m[1]) // 2}.{int(m[2]) + 1}."),
    (r"\.mlp\.0\.", ".mlp.expand."),
    (r"\.mlp\.3\.", ".mlp.contract."),
    (r"\.attn\.proj\.", ".attention.output."),
    (r"\.attn\.", ".attention."),
]
FROM_TIMM = [
    (r"^patch_embed\.proj\.", "patch_embed."),
    (r"^patch_embed\.norm\.", "patch_norm."),
    (r"^layers\.(\d)\.downsample\.", r"stages.\1.0."),
    (r"^layers\.0\.blocks\.(\d+)\.", r"stages.0.\1."),
    (r"^layers\.(\d)\.blocks\.(\d+)\.", lambda m: f"stages.{m[1]}.{int(m[2]) + 1}."),
    (r"\.mlp\.fc1\.", ".mlp.expand."),
    (r"\.mlp\.fc2\.", ".mlp.contract."),
    (r"\.attn\.proj\.", ".attention.output."),
    (r"\.attn\.", ".attention."),
]


def load(swin: Swin, reference: nn.Module, renamings: list[tuple[str, str | Callable[[re.Match], str]]]) -> None:
    """Loads all weights of the reference except its classifier's; every tensor of ours must be set."""
    state = swin.state_dict()
    expected = {key for key in state if not key.startswith("feature_norms.")}
    given = {}
    for key, value in reference.state_dict().items():
        if key.startswith(("norm.", "head.")):
            continue
        if key.endswith("relative_position_index"):  # a constant there
            assert torch.equal(value, relative_position_index(round(len(value) ** 0.25)).flatten())
            continue
        for pattern, replacement in renamings:
            key = re.sub(pattern, replacement, key)
        given[key] = value
    assert given.keys() == expected
    swin.load_state_dict({**state, **given})


def normed(swin: Swin, features: list[Tensor]) -> list[Tensor]:
    """A reference's raw features (B, C, H, W) after our norms."""
    pairs = [(x.permute(0, 2, 3, 1), norm) for x, norm in zip(features, swin.feature_norms, strict=True)]
    return [F.layer_norm(x, x.shape[-1:], norm.weight, norm.bias).permute(0, 3, 1, 2) for x, norm in pairs]


def torchvision_features(reference: "TorchvisionSwin", images: Tensor) -> list[Tensor]:
    """After each stage. torchvision drops incomplete patches, so the image is padded first."""
    x = F.pad(images, (0, -images.shape[3] % 4, 0, -images.shape[2] % 4))
    features = []
    for i, layer in enumerate(reference.features):
        x = layer(x)
        if i % 2:
            features.append(x.permute(0, 3, 1, 2))
    return features


def pair(randomise, reference: nn.Module, renamings: list, **options) -> tuple[Swin, nn.Module]:
    swin = Swin(**options).eval()
    randomise(swin)
    randomise(reference.eval())
    load(swin, reference, renamings)
    return swin, reference


@pytest.mark.parametrize("size", [(97, 131), (33, 50), (9, 20), (1, 1)], ids=str)
@pytest.mark.parametrize("window", [7, 4, 12])
def test_nano_matches_torchvision_at_any_size(size, window, randomise, assert_equal_features):
    from torchvision.models.swin_transformer import SwinTransformer as TorchvisionSwin

    reference = TorchvisionSwin([4, 4], 32, depths=[1, 1, 3, 1], num_heads=[1, 2, 4, 8], window_size=[window, window])
    swin, reference = pair(randomise, reference, FROM_TORCHVISION, variant="nano", window_size=window)
    assert_equal_features(
        swin, lambda images: normed(swin, torchvision_features(reference, images)), torch.randn(2, 3, *size)
    )


@pytest.mark.integration
@pytest.mark.parametrize("size", [(97, 131), (60, 24)], ids=str)
def test_tiny_matches_torchvision(size, randomise, assert_equal_features):
    from torchvision.models.swin_transformer import swin_t

    swin, reference = pair(randomise, swin_t(), FROM_TORCHVISION, variant="tiny")
    assert_equal_features(
        swin, lambda images: normed(swin, torchvision_features(reference, images)), torch.randn(2, 3, *size)
    )


# timm shrinks windows to smaller maps, and shifts before it pads: each map here consists of whole windows.
@pytest.mark.parametrize(
    ("window", "batch", "size"),
    [(3, 2, (96, 192)), pytest.param(7, 1, (224, 224), marks=pytest.mark.integration)],
    ids=str,
)
def test_tiny_matches_timm(window, batch, size, randomise, assert_equal_features):
    import timm

    reference = timm.create_model("swin_tiny_patch4_window7_224", img_size=size, window_size=window, pretrained=False)
    swin, reference = pair(randomise, reference, FROM_TIMM, variant="tiny", window_size=window)
    assert_equal_features(
        swin,
        lambda images: normed(swin, reference.forward_intermediates(images, intermediates_only=True)),
        torch.randn(batch, 3, *size),
    )


@pytest.mark.parametrize("variant", ["tiny", "small", "base", "large"])
def test_all_variants_have_timm_s_tensors(variant):
    import timm

    with torch.device("meta"):
        swin = Swin(variant, window_size=12)
        options = {"window_size": 12, "img_size": 384, "pretrained": False}
        reference = timm.create_model(f"swin_{variant}_patch4_window7_224", **options)
    load(swin, reference, FROM_TIMM)


@pytest.mark.parametrize(
    ("variant", "published"),
    [("tiny", 28_288_354), ("small", 49_606_258), ("base", 87_768_224), ("large", 196_532_476)],
)
def test_parameter_counts_match_the_paper_s_classifiers(variant, published):
    with torch.device("meta"):
        swin = Swin(variant)
        classifier = nn.Sequential(nn.LayerNorm(swin.channels[-1]), nn.Linear(swin.channels[-1], 1000))
    own = sum(p.numel() for p in swin.parameters()) - sum(p.numel() for p in swin.feature_norms.parameters())
    assert own + sum(p.numel() for p in classifier.parameters()) == published


def test_stochastic_depth_rises_linearly_over_the_blocks():
    with torch.device("meta"):
        swin = Swin("tiny", drop_path=0.22)
    rates = [block.drop_path.rate for stage in swin.stages for block in stage if hasattr(block, "drop_path")]
    assert rates == pytest.approx([0.02 * i for i in range(12)])


@pytest.mark.parametrize("stem", ["patch", "conv"])
def test_grids_are_the_size_over_the_stride_rounded_up(stem):
    swin = densevit.create_backbone("swin", variant="nano", stem=stem).eval()
    for size in [(32, 47), (53, 199), (61, 62), (101, 33), (131, 36), (200, 64), (3, 5)]:
        with torch.no_grad():
            features = swin(torch.randn(1, 3, *size))
        assert [x.shape[1] for x in features] == [*swin.channels]
        assert [tuple(x.shape[2:]) for x in features] == [(-(-size[0] // s), -(-size[1] // s)) for s in swin.strides]


@pytest.mark.parametrize("stem", ["patch", "conv"])
def test_every_parameter_has_a_gradient_and_one_depth(stem):
    swin = Swin("nano", stem=stem)
    sum(x.square().sum() for x in swin(torch.randn(2, 3, 70, 40))).backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in swin.parameters())
    grouped = [id(p) for group in swin.parameter_depths() for p in group]
    assert sorted(grouped) == sorted(id(p) for p in swin.parameters())


def test_layer_depths_increase_from_input_to_output():
    swin = Swin("nano")
    names = {id(p): name for name, p in swin.named_parameters()}
    firsts = [names[id(group[0])] for group in swin.parameter_depths()]
    blocks = [re.match(r"stages\.(\d)\.(\d)", name) for name in firsts[1:-1]]
    assert (firsts[0], firsts[-1]) == ("patch_embed.weight", "feature_norms.0.weight")
    assert [m[1] + m[2] for m in blocks] == [
        "00",
        "10",
        "20",
        "22",
        "23",
        "30",
    ]  # patch merging has the depth of the block after it


def test_evaluation_is_deterministic_and_independent_of_the_batch(randomise):
    swin = Swin("nano", drop_path=0.5).eval()
    randomise(swin)
    images = torch.randn(3, 3, 45, 75)
    with torch.no_grad():
        batch, again = swin(images), swin(images)
        alone = swin(images[1:2])
    for x, y, z in zip(batch, again, alone, strict=True):
        assert torch.equal(x, y)
        torch.testing.assert_close(x[1:2], z, atol=1e-5, rtol=1e-5)


def test_bf16_is_finite_and_near_fp32(randomise):
    swin = Swin("nano").eval()
    randomise(swin)
    images = torch.randn(1, 3, 50, 70)
    with torch.autocast("cpu", torch.bfloat16):
        low = swin(images)
    for x, y in zip(low, swin(images), strict=True):
        assert x.isfinite().all()
        assert (x.float() - y).norm() < 0.05 * y.norm()


def test_padding_changes_only_border_windows_before_the_first_shift(randomise):
    """An image of 10x10 cells: windows of 7, so that cells 0 ... 6 are in a window without padding."""
    swin = Swin("tiny").eval()
    randomise(swin)
    image = torch.randn(1, 3, 40, 40)
    padded = F.pad(image, (0, 24, 0, 24))
    tokens = [swin.patch_norm(swin.patch_embed(x).permute(0, 2, 3, 1)) for x in (image, padded)]
    alone, beside = (swin.stages[0][0](x)[:, :10, :10] for x in tokens)
    torch.testing.assert_close(alone[:, :7, :7], beside[:, :7, :7], atol=1e-5, rtol=1e-5)
    assert (alone - beside).abs().amax(-1)[0, 7:, 7:].min() > 1e-3
    alone, beside = (swin.stages[0](x)[:, :10, :10] for x in tokens)
    assert (alone - beside).abs().amax(-1)[0, :7, :7].max() > 1e-3


def test_padding_whole_windows_changes_nothing_before_the_first_shift(randomise):
    """28x28 cells in windows of 7; how far padding then propagates from the border in each block of the third stage."""
    swin = Swin("tiny").eval()
    randomise(swin)
    x = torch.randn(1, 28, 28, swin.channels[2])
    alone, padded = x, torch.randn(1, 42, 35, swin.channels[2])
    padded[:, :28, :28] = x
    reach = []
    for block in list(swin.stages[2].children())[1:]:
        alone, padded = block(alone), block(padded)
        changed = (alone - padded[:, :28, :28]).abs().amax(-1)[0] > 1e-4
        edges = changed[0], changed[:, 0]  # along the first row and the first column
        reach.append([28 - int(edge.float().argmax()) if edge.any() else 0 for edge in edges])
    assert reach == [[0, 0], [4, 4], [7, 7], [11, 11], [14, 14], [18, 18]]


@pytest.mark.parametrize("version", [1, 2])
def test_features_before_the_first_shift_do_not_depend_on_padding(version, randomise):
    swin = Swin("nano", version=version, window_size=4).eval()  # its third stage is the first with a shifted block
    randomise(swin)
    image = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        alone, padded = swin(image), swin(F.pad(image, (0, 64, 0, 32)))
    same = [
        torch.allclose(x, y[..., : x.shape[2], : x.shape[3]], atol=1e-4) for x, y in zip(alone, padded, strict=True)
    ]
    assert same == [True, True, False, False]


@pytest.mark.integration
@pytest.mark.parametrize("version", [1, 2])
def test_compile_export_pickle_and_half_precision_match(version, randomise):
    swin = Swin("nano", version=version).eval()
    randomise(swin)
    images = torch.randn(1, 3, 37, 61)
    with torch.no_grad():
        expected = swin(images)
        others = [
            torch.compile(swin, fullgraph=True, backend="aot_eager")(images),
            torch.export.export(swin, (images,)).module()(images),
            pickle.loads(pickle.dumps(swin))(images),
            copy.deepcopy(swin)(images),
        ]
        for features in others:
            torch.testing.assert_close(list(features), expected, atol=1e-5, rtol=1e-5)
        for dtype in (torch.float16, torch.bfloat16):
            with torch.autocast("cpu", dtype):
                low = swin(images)
            for x, y in zip(low, expected, strict=True):
                assert (x.float() - y).norm() < 0.05 * y.norm()


@pytest.mark.integration
@pytest.mark.parametrize(("shift", "size"), [("both_axes", (60, 140)), ("dense", (60, 40))])
@torch.no_grad()
def test_compiled_and_exported_shifts_match(shift, size, randomise):
    swin = Swin("nano", window_size=4, shift=shift).eval()
    randomise(swin)
    images = torch.randn(1, 3, *size)
    torch.compiler.reset()
    compiled = torch.compile(swin, fullgraph=True, backend="aot_eager", dynamic=False)
    for graph in (compiled, torch.export.export(swin, (images,)).module()):
        torch.testing.assert_close(list(graph(images)), swin(images), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("version", [1, 2])
def test_shifts_differ_only_on_maps_of_one_window(version, randomise):
    """The shifted block of "nano" is in its third stage: maps of 7x9, 4x9 and 4x3 cells in windows of 4."""
    swins = [Swin("nano", version, window_size=4, shift=shift).eval() for shift in ("per_axis", "both_axes", "dense")]
    randomise(swins[0])
    for swin in swins[1:]:
        swin.load_state_dict(swins[0].state_dict())
    groups = []
    for size in ((100, 140), (60, 140), (60, 40)):
        images = torch.randn(1, 3, *size)
        with torch.no_grad():
            last = [swin(images)[-1] for swin in swins]
        assert not any(torch.allclose(last[0], x, atol=1e-2) != torch.equal(last[0], x) for x in last[1:])
        groups.append([next(i for i, x in enumerate(last) if torch.equal(x, own)) for own in last])
    assert groups == [[0, 0, 0], [0, 1, 2], [0, 0, 2]]


@pytest.mark.parametrize("version", [1, 2])
def test_grids_of_large_and_prime_sizes(version):
    with torch.device("meta"):
        swin = Swin("nano", version=version)
        for size in [(32, 1333), (1333, 800), (1009, 613), (331, 37)]:
            grids = [tuple(x.shape[2:]) for x in swin(torch.empty(1, 3, *size))]
            assert grids == [(-(-size[0] // s), -(-size[1] // s)) for s in swin.strides]


@pytest.mark.integration
def test_training_works_after_inference_and_export():
    """Masks and indices created in inference mode, on the meta device or while tracing are not reused."""
    with torch.device("meta"):
        Swin("nano", window_size=5)
    images = torch.randn(1, 3, 100, 100)
    with torch.inference_mode():
        swin = Swin("nano", window_size=5)
        swin(images)
    swin = Swin("nano", window_size=5)
    torch.export.export(swin.eval(), (images,), strict=False)
    sum(x.sum() for x in swin.train()(images)).backward()
    assert swin.patch_embed.weight.grad.isfinite().all()


def test_invalid_options_raise_before_construction():
    with pytest.raises(densevit.DensevitError, match="variant"):
        densevit.create_backbone("swin", variant="huge")


@pytest.mark.parametrize("options", [{"window_size": 0}, {"window_size": (7, 7, 7, 0)}], ids=str)
def test_empty_window_raises(options):
    with pytest.raises(ValueError, match="window_size is"):
        Swin("nano", **options)


def test_pretrained_windows_require_version_2():
    with pytest.raises(ValueError, match="pretrained_window_sizes is for version 2"):
        Swin("nano", pretrained_window_sizes=(7, 7, 7, 7))
