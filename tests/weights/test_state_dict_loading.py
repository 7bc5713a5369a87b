"""State dicts are loaded all-or-nothing; errors name the keys that do not match; tables and kernels are resized."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import densevit
from densevit.errors import WeightsError
from densevit.layers.norms import FrozenBatchNorm2d
from densevit.weights.state_dict_loading import fit, load_state
from tests.weights.states import equal


def linear_and_norm() -> nn.Sequential:
    return nn.Sequential(nn.Linear(2, 3), nn.LayerNorm(3))


STATE = {
    "0.weight": torch.arange(6.0).view(3, 2),
    "0.bias": torch.ones(3),
    "1.weight": 2 * torch.ones(3),
    "1.bias": -torch.ones(3),
}


def ones(*names):
    return {name: torch.ones(1) for name in names}


@pytest.mark.parametrize(
    ("state", "facts"),
    [
        ({key: x for key, x in STATE.items() if "bias" not in key}, r"^file\.pt .*: 2 .* missing \(0\.bias, 1\.bias\)"),
        (STATE | ones("2.w", "3.a", "3.b", "3.c"), r"4 are unexpected \(2\.w, 3\.a, 3\.b, 3\.c\)"),
        ({key.replace("0.", "zero."): x for key, x in STATE.items()}, r"zero\.bias\) Did you mean '0\.weight'\?"),
        (STATE | {"0.weight": torch.ones(4, 2)}, r"1 .* another shape \(0\.weight is \(4, 2\), expected \(3, 2\)\)"),
        ({}, r"allow_mismatch=\[PATTERN, \.\.\.\]\.$"),
    ],
)
def test_tensors_that_do_not_fit_are_named_and_nothing_is_loaded(state, facts):
    module = linear_and_norm()
    before = {key: value.clone() for key, value in module.state_dict().items()}
    with pytest.raises(WeightsError, match=facts):
        load_state(module, state, "file.pt")
    assert equal(module.state_dict(), before)


@pytest.mark.parametrize(("given", "taken"), [(nn.BatchNorm2d, FrozenBatchNorm2d), (FrozenBatchNorm2d, nn.BatchNorm2d)])
def test_batch_norm_and_frozen_batch_norm_share_state_dicts(given, taken):
    source, module = given(3), taken(3)
    source.running_mean.copy_(torch.tensor([1.0, 2.0, 3.0]))
    load_state(module, source.state_dict(), "file.pt")
    assert module.running_mean.tolist() == [1, 2, 3]


def test_allowed_patterns_and_excluded_tensors_are_reported_without_raising():
    state = STATE | {"0.weight": torch.ones(4, 2), "head.weight": torch.ones(1)}
    del state["1.bias"]
    module = linear_and_norm()
    before = module[0].weight.clone()
    found = fit(module, state, "file.pt", allowed=["head.*", "1.b*", "0.weight"])
    assert module[0].bias.ne(1).all()  # nothing is written before
    found.write()
    assert found.missing == ["1.bias"] and found.unexpected == ["head.weight"] and found.loaded == 2
    assert found.ignored_keys == {"0.weight": "another shape, 4 x 2 for 3 x 2, which is allowed"}
    assert torch.equal(module[0].weight, before) and module[0].bias.eq(1).all()
    with pytest.raises(WeightsError, match=r"1 tensors are missing \(1\.bias\); 1 have another shape"):
        fit(module, state, "file.pt", allowed=["head.*"])
    state = {key: value for key, value in STATE.items() if key != "1.bias"}
    found = fit(module, state, "file.pt", excluded={"1.bias": "it is new", "1.weight": "it is another"})
    assert found.initialised == {"1.bias": "it is new"} and found.ignored_keys == {"1.weight": "it is another"}
    assert sorted(found.tensors) == ["0.bias", "0.weight"]


# ---- tables of positions ----


@pytest.mark.parametrize(
    ("name", "options", "other", "tables"),
    [
        ("swin", {"variant": "nano", "window_size": 7}, {"window_size": 12}, 6),
        ("vit", {"variant": "nano", "image_size": 224}, {"image_size": 320}, 1),
        ("mvit", {"variant": "nano", "image_size": 96}, {"image_size": 160}, 12),
        ("mvit", {"variant": "nano", "version": 1, "image_size": 96}, {"image_size": 160}, 1),
    ],
    ids=str,
)
@torch.no_grad()
def test_tables_are_resized_with_a_report_line_each(name, options, other, tables):
    old, new = (densevit.create_backbone(name, **one).eval() for one in (options, {**options, **other}))
    report = load_state(new, old.state_dict(), "old.pth").adapted
    own, before = new.state_dict(), old.state_dict()
    carried = [key for key in own if own[key].shape != before[key].shape]
    assert report == [(key, tuple(before[key].shape), tuple(own[key].shape), "interpolated") for key in carried]
    assert len(carried) == tables
    assert all(torch.equal(own[key], before[key]) for key in own if key not in carried)
    if name == "vit":  # as in its forward pass
        images = torch.randn(1, 3, 320, 320)
        for x, y in zip(new(images), old(images), strict=True):
            torch.testing.assert_close(x, y)
    if name == "swin":  # between the ends of the table
        table, after = (s.stages[0][0].attention.relative_position_bias_table for s in (old, new))
        expected = F.interpolate(table.T.view(1, 1, 13, 13), size=(23, 23), mode="bicubic").view(1, -1).T
        torch.testing.assert_close(after, expected)


# ---- input kernels ----


@torch.no_grad()
@pytest.mark.parametrize(("old", "new"), [(8, 16), (16, 14)])
def test_resized_kernel_matches_flexivit(old, new):
    from timm.layers.patch_embed import resample_patch_embed

    kernel = torch.randn(5, 3, old, old)
    expected = resample_patch_embed(kernel, [new, new], interpolation="bilinear", antialias=False)
    module = nn.Conv2d(3, 5, new, new, bias=False)
    found = load_state(module, {"weight": kernel}, "old.pth")
    assert found.adapted == [("weight", (5, 3, old, old), (5, 3, new, new), "patch kernel resized")]
    torch.testing.assert_close(module.weight, expected, rtol=1e-4, atol=1e-4)


def test_grey_kernel_is_expanded_to_rgb():
    module, kernel = nn.Conv2d(3, 4, 3, bias=False), torch.randn(4, 1, 3, 3)
    found = load_state(module, {"weight": kernel}, "grey.pth")
    assert found.adapted == [("weight", (4, 1, 3, 3), (4, 3, 3, 3), "grey-scale kernel expanded to RGB")]
    grey = torch.randn(1, 1, 9, 9)
    torch.testing.assert_close(module(grey.expand(-1, 3, -1, -1)), F.conv2d(grey, kernel))
