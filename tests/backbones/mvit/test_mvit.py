import copy
import functools
import pickle

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import densevit
from densevit.testing import check_backbone
from densevit_backbones.mvit import MViT

SMALL = [("nano", 2, None), ("nano", 1, None), ("nano", 2, True)]


def with_classifier(mvit: MViT) -> list[nn.Module]:
    """The paper's model has one norm and a linear layer instead of our feature norms."""
    width = mvit.channels[-1]
    parts = [child for name, child in mvit.named_children() if name != "feature_norms"]
    return [*parts, nn.LayerNorm(width), nn.Linear(width, 1000)]


def parameters(mvit: MViT) -> float:
    own = [] if mvit.class_token is None else [mvit.class_token]
    return sum(p.numel() for p in [*own, *(p for part in with_classifier(mvit) for p in part.parameters())]) / 1e6


def multiply_adds(mvit: MViT, size: int) -> float:
    with FlopCounterMode(display=False) as counter:
        mvit.eval()(torch.empty(1, 3, size, size, device="meta"))
    return (counter.get_total_flops() / 2 + 1000 * mvit.channels[-1]) / 1e9


# MViTv2: Li et al. 2022, table 1. MViTv1: Fan et al. 2021, table 8; B-24-wide with images of 320 pixels.
@pytest.mark.parametrize(
    ("version", "variant", "size", "published", "gmacs"),
    [
        (2, "tiny", 224, 24.17, 4.7),
        (2, "small", 224, 34.87, 7.0),
        (2, "base", 224, 51.47, 10.2),
        (1, "base", 224, 37.0, 7.8),
        (1, "large", 320, 72.9, 32.7),
    ],
)
def test_parameters_and_multiply_adds_match_the_paper(version, variant, size, published, gmacs):
    with torch.device("meta"):
        mvit = MViT(variant, version, image_size=size)
    assert parameters(mvit) == pytest.approx(published, rel=0.002)
    assert multiply_adds(mvit, size) == pytest.approx(gmacs, rel=0.015)


def test_parameter_count_of_large_matches_the_paper():
    """Its multiply-adds are 43.7 G here (timm's count is 43.9), 4 % above the paper's 42.1."""
    with torch.device("meta"):
        mvit = MViT("large")
    assert parameters(mvit) == pytest.approx(218, rel=0.002)
    assert mvit.channels == (288, 576, 1152, 1152)


def test_stochastic_depth_rises_linearly_over_the_blocks():
    with torch.device("meta"):
        mvit = MViT("tiny", drop_path=0.18)
    rates = [block.drop_path.rate for stage in mvit.stages for block in stage]
    assert rates == pytest.approx([0.02 * i for i in range(10)])


@pytest.mark.parametrize("stem", ["patch", "conv"])
@pytest.mark.parametrize(("variant", "version", "class_token"), SMALL)
def test_grids_are_the_size_over_the_stride_rounded_up(variant, version, class_token, stem):
    mvit = densevit.create_backbone("mvit", variant=variant, version=version, class_token=class_token, stem=stem).eval()
    for size in [(32, 47), (53, 131), (61, 62), (101, 33), (131, 36), (3, 5), (1, 1)]:
        with torch.no_grad():
            features = mvit(torch.randn(1, 3, *size))
        assert [x.shape[1] for x in features] == [*mvit.channels]
        assert [tuple(x.shape[2:]) for x in features] == [(-(-size[0] // s), -(-size[1] // s)) for s in mvit.strides]


@pytest.mark.parametrize("version", [1, 2])
def test_grids_of_large_and_prime_sizes(version):
    with torch.device("meta"):
        mvit = MViT("nano", version)
        for size in [(1333, 800), (1327, 641), (37, 1333), (32, 1301)]:
            features = mvit(torch.empty(2, 3, *size))
            assert [tuple(x.shape[2:]) for x in features] == [
                (-(-size[0] // s), -(-size[1] // s)) for s in (4, 8, 16, 32)
            ]


@pytest.mark.parametrize("stem", ["patch", "conv"])
@pytest.mark.parametrize(("variant", "version", "class_token"), SMALL)
def test_every_parameter_has_a_gradient_and_one_depth(variant, version, class_token, stem, randomise):
    mvit = MViT(variant, version, stem, class_token=class_token)
    randomise(mvit)
    sum(x.square().sum() for x in mvit(torch.randn(2, 3, 70, 90))).backward()
    dead = {name for name, p in mvit.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0}
    assert dead == set()
    grouped = [id(p) for group in mvit.parameter_depths() for p in group]
    assert sorted(grouped) == sorted(id(p) for p in mvit.parameters())


def test_layer_depths_increase_from_input_to_output():
    mvit = MViT("nano", version=1)
    names = {id(p): name for name, p in mvit.named_parameters()}
    groups = [[names[id(p)] for p in group] for group in mvit.parameter_depths()]
    assert groups[0] == ["patch_embed.weight", "patch_embed.bias", "class_token", "positions.cells", "positions.token"]
    assert [group[0][:10] for group in groups[1:-1]] == [
        f"stages.{s}" for s in ("0.0", "1.0", "2.0", "2.1", "2.2", "3.0")
    ]
    assert all(name.startswith("feature_norms.") for name in groups[-1])


@pytest.mark.parametrize(("variant", "version", "class_token"), SMALL)
def test_evaluation_is_deterministic_and_independent_of_the_batch(variant, version, class_token, randomise):
    mvit = MViT(variant, version, drop_path=0.5, class_token=class_token).eval()
    randomise(mvit)
    images = torch.randn(3, 3, 45, 75)
    with torch.no_grad():
        batch, again, alone = mvit(images), mvit(images), mvit(images[1:2])
    for x, y, z in zip(batch, again, alone, strict=True):
        assert torch.equal(x, y)
        torch.testing.assert_close(x[1:2], z, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize(("variant", "version", "class_token"), SMALL)
def test_autocast_is_finite_and_near_fp32(variant, version, class_token, dtype, randomise):
    mvit = MViT(variant, version, class_token=class_token).eval()
    randomise(mvit)
    images = torch.randn(1, 3, 50, 70)
    with torch.autocast("cpu", dtype):
        low = mvit(images)
    for x, y in zip(low, mvit(images), strict=True):
        assert x.isfinite().all()
        assert (x.float() - y).norm() < 0.05 * y.norm()
    sum(x.float().square().mean() for x in low).backward()
    assert all(p.grad.isfinite().all() for p in mvit.parameters())


@pytest.mark.parametrize(("variant", "version", "class_token"), SMALL)
def test_pickle_copy_and_state_dict_preserve_features(variant, version, class_token, randomise):
    mvit = MViT(variant, version, class_token=class_token).eval()
    randomise(mvit)
    images = torch.randn(1, 3, 40, 56)
    expected = mvit(images)
    other = MViT(variant, version, class_token=class_token).eval()
    other.load_state_dict(mvit.state_dict())
    for again in (other, pickle.loads(pickle.dumps(mvit)), copy.deepcopy(mvit)):
        for x, y in zip(again(images), expected, strict=True):
            assert torch.equal(x, y)


@pytest.mark.integration
@pytest.mark.parametrize("version", [1, 2])
def test_compiles_into_one_graph_and_exports(version, randomise):
    mvit = MViT("nano", version).eval()
    randomise(mvit)
    images = torch.randn(2, 3, 45, 70)
    expected = mvit(images)
    compiled = torch.compile(mvit, backend="eager", fullgraph=True)
    exported = torch.export.export(mvit, (images,)).module()
    for traced in (compiled, exported):
        for x, y in zip(traced(images), expected, strict=True):
            torch.testing.assert_close(x, y, atol=1e-4, rtol=1e-4)


@pytest.mark.integration
def test_training_works_after_inference_and_export():
    images = torch.randn(1, 3, 88, 104)
    with torch.device("meta"):
        MViT("nano")(torch.empty(1, 3, 88, 104))
    with torch.inference_mode():
        MViT("nano")(images)
    mvit = MViT("nano")
    torch.export.export(mvit.eval(), (images,), strict=False)
    sum(x.sum() for x in mvit.train()(images)).backward()
    assert mvit.patch_embed.weight.grad.isfinite().all()


def test_absolute_positions_are_interpolated_bilinearly():
    mvit = MViT("nano", version=1, image_size=8)  # 2 x 2 cells
    mvit.positions.cells.data = torch.tensor([[0.0, 1.0], [10.0, 11.0]]).expand(1, 32, 2, 2).clone()
    between = mvit.positions(2, 4)[0, 1:, 0].view(2, 4)
    assert between.tolist() == [[0, 0.25, 0.75, 1], [10, 10.25, 10.75, 11]]
    assert torch.equal(mvit.positions(2, 2)[0, 0], mvit.positions.token[0, 0])


def test_training_size_sets_table_sizes_only():
    small, large = MViT("nano", image_size=128), MViT("nano", image_size=224)
    shapes = [{k: v.shape for k, v in x.state_dict().items() if "relative" not in k} for x in (small, large)]
    assert shapes[0] == shapes[1]
    key = "stages.0.0.attention.relative_positions.rows"  # queries of stride 4
    assert [len(x.state_dict()[key]) for x in (small, large)] == [2 * 32 - 1, 2 * 56 - 1]


def test_invalid_options_raise_before_construction():
    with pytest.raises(densevit.DensevitError, match="variant"):
        densevit.create_backbone("mvit", variant="huge")
    with pytest.raises(ValueError, match=r"version 1.*nano, base, large"):
        MViT("tiny", version=1)
    with pytest.raises(ValueError, match="image_size"):
        MViT("nano", image_size=0)


@pytest.mark.integration
def test_windowed_mvit_passes_the_checks_of_backbones():
    check_backbone(functools.partial(MViT, "nano", window_size=16, coarse_global_keys=True))


@torch.no_grad()
def test_windows_are_halved_by_stage_and_absent_from_the_last_blocks():
    mvit = MViT("tiny", window_size=56, coarse_global_keys=True)
    found = [[block.attention.windows for block in stage] for stage in mvit.stages]
    assert found == [  # of queries and of keys; a stage's first block pools the queries of the finer map
        [(56, 14)],
        [(28, 28), None],
        [(14, 28), (14, 14), (14, 14), (14, 14), None],
        [(7, 14), None],
    ]
    strides = [[block.attention.pool_key.stride for block in stage] for stage in mvit.stages]
    assert strides == [[4], [2, 4], [1, 1, 1, 1, 2], [1, 1]]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"window_size": 12}, "window_size is 12; it must be a multiple of 8"),
        ({"window_size": 0}, "window_size is 0; it must be a multiple of 8"),
        ({"window_size": 56, "class_token": True}, "window_size needs a model without class token"),
        ({"class_token_residual": False}, "class_token_residual: false needs a class token"),
        ({"class_token_residual": False, "version": 1}, "class_token_residual: false needs .* version: 2"),
    ],
)
def test_options_that_exclude_each_other_are_explained(options, message):
    with pytest.raises(ValueError, match=message):
        MViT("nano", **options)
