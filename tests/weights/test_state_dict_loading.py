"""State dicts are loaded all-or-nothing; errors name the keys that do not match."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import densevit
from densevit.errors import WeightsError
from densevit.layers.norms import FrozenBatchNorm2d
from densevit.weights.state_dict_loading import fit, load_state, resize_kernel


def linear_and_norm() -> nn.Sequential:
    return nn.Sequential(nn.Linear(2, 3), nn.LayerNorm(3))


STATE = {
    "0.weight": torch.arange(6.0).view(3, 2),
    "0.bias": torch.ones(3),
    "1.weight": 2 * torch.ones(3),
    "1.bias": -torch.ones(3),
}


def equal(found, expected) -> bool:
    return found.keys() == expected.keys() and all(torch.equal(found[key], value) for key, value in expected.items())


def test_load_state_fills_a_module():
    module = linear_and_norm()
    load_state(module, STATE, "file.pt")
    assert equal(module.state_dict(), STATE)


def test_missing_tensors_are_counted_and_named():
    state = {key: value for key, value in STATE.items() if not key.endswith("bias")}
    with pytest.raises(WeightsError, match=r"^file\.pt does not fit: 2 tensors are missing \(0\.bias, 1\.bias\)\. "):
        load_state(linear_and_norm(), state, "file.pt")


def test_unexpected_tensors_are_counted_and_named():
    state = {**STATE, "2.weight": torch.ones(1), "3.a": torch.ones(1), "3.b": torch.ones(1), "3.c": torch.ones(1)}
    with pytest.raises(WeightsError, match=r"4 are not the model's \(2\.weight, 3\.a, 3\.b, 3\.c\)"):
        load_state(linear_and_norm(), state, "file.pt")


def test_renamed_tensor_suggests_the_nearest():
    state = {key.replace("0.", "zero."): value for key, value in STATE.items()}
    with pytest.raises(WeightsError, match=r"zero\.weight, zero\.bias; did you mean '0\.weight'\?\)\. Use"):
        load_state(linear_and_norm(), state, "file.pt")


def test_shape_mismatch_reports_both_shapes():
    state = {**STATE, "0.weight": torch.ones(4, 2)}
    with pytest.raises(WeightsError, match=r"1 have another shape \(0\.weight is \(4, 2\), expected \(3, 2\)\)"):
        load_state(linear_and_norm(), state, "file.pt")


def test_mismatched_state_does_not_modify_the_module():
    module = linear_and_norm()
    before = {key: value.clone() for key, value in module.state_dict().items()}
    with pytest.raises(WeightsError):
        load_state(module, {**STATE, "1.bias": torch.ones(7)}, "file.pt")
    assert equal(module.state_dict(), before)


@pytest.mark.parametrize(("given", "taken"), [(nn.BatchNorm2d, FrozenBatchNorm2d), (FrozenBatchNorm2d, nn.BatchNorm2d)])
def test_batch_norm_and_frozen_batch_norm_share_state_dicts(given, taken):
    source, module = nn.Sequential(given(3)), nn.Sequential(taken(3))
    source[0].running_mean.copy_(torch.tensor([1.0, 2.0, 3.0]))
    load_state(module, source.state_dict(), "file.pt")
    assert module[0].running_mean.tolist() == [1, 2, 3]


def test_nothing_is_written_before_write():
    module = linear_and_norm()
    before = {key: value.clone() for key, value in module.state_dict().items()}
    found = fit(module, STATE, "file.pt")
    assert equal(module.state_dict(), before)
    found.write()
    assert equal(module.state_dict(), STATE)
    assert (found.loaded, found.adapted, found.left_out, found.missing, found.unexpected) == (4, [], {}, [], [])


def test_allowed_patterns_are_reported_without_raising():
    state = {
        "0.weight": torch.ones(4, 2),
        "0.bias": torch.ones(3),
        "1.weight": torch.ones(3),
        "head.weight": torch.ones(1),
    }
    module = linear_and_norm()
    before = module[0].weight.clone()
    found = fit(module, state, "file.pt", allowed=["head.*", "1.b*", "0.weight"])
    found.write()
    assert found.missing == ["1.bias"] and found.unexpected == ["head.weight"] and found.loaded == 2
    assert found.left_out == {"0.weight": "another shape, 4 x 2 for 3 x 2, which is allowed"}
    assert torch.equal(module[0].weight, before) and module[0].bias.eq(1).all()
    with pytest.raises(WeightsError, match=r"1 tensors are missing \(1\.bias\); 1 have another shape"):
        fit(module, state, "file.pt", allowed=["head.*"])


def test_kept_tensors_are_not_loaded():
    module, state = linear_and_norm(), {key: value for key, value in STATE.items() if key != "1.bias"}
    found = fit(module, state, "file.pt", excluded={"1.bias": "it is new", "1.weight": "it is another"})
    assert found.initialised == {"1.bias": "it is new"} and found.left_out == {"1.weight": "it is another"}
    assert sorted(found.tensors) == ["0.bias", "0.weight"]


def test_error_names_the_allow_option():
    with pytest.raises(WeightsError, match=r"weights_allow=\[PATTERN, \.\.\.\]\.$"):
        load_state(linear_and_norm(), {}, "file.pt")


@pytest.mark.parametrize(
    ("source", "more", "line"),
    [
        ("file.pt", ["fc.weight", "fc.bias"], "weights_allow=[fc.*]"),
        ("backbone.weights: file.pt", ["0.fc.weight", "scale"], "backbone.weights_allow=[0.fc.*, scale]"),
        ("backbone.weights: file.pt", ["0.more"], "backbone.weights_allow=[0.more]"),  # 0.weight is loaded
        ("weights: file.pt", [f"{i}.x" for i in range(10, 20)], f"[{', '.join(f'{i}.*' for i in range(10, 20))}]"),
        ("weights: file.pt", [f"{i}.x" for i in range(10, 21)], "weights_allow=[PATTERN, ...]"),
    ],
)
def test_the_allow_option_is_exact_and_suffices(source, more, line):
    state = STATE | {name: torch.ones(1) for name in more}
    with pytest.raises(WeightsError) as caught:
        fit(linear_and_norm(), state, source)
    assert str(caught.value).endswith(f"{line}.")
    if "..." not in line:
        patterns = line[:-1].partition("[")[2].split(", ")
        assert fit(linear_and_norm(), state, source, allowed=patterns).unexpected == more


# ---- input kernels ----


@pytest.mark.parametrize(("old", "new"), [(8, 16), (16, 8), (14, 16), (16, 14)])
def test_resized_kernel_matches_flexivit(old, new):
    from timm.layers.patch_embed import resample_patch_embed

    kernel = torch.randn(5, 3, old, old)
    expected = resample_patch_embed(kernel, [new, new], interpolation="bilinear", antialias=False)
    torch.testing.assert_close(resize_kernel(kernel, (new, new)), expected, rtol=1e-4, atol=1e-4)


def test_larger_kernel_preserves_outputs_on_enlarged_patches():
    kernel, patches = torch.randn(5, 3, 8, 8), torch.randn(2, 3, 8, 8)
    enlarged = F.interpolate(patches, size=(16, 12), mode="bilinear")
    torch.testing.assert_close(
        F.conv2d(enlarged, resize_kernel(kernel, (16, 12))), F.conv2d(patches, kernel), rtol=1e-4, atol=1e-4
    )


def test_patch_kernel_of_another_size_is_resized_in_vit():
    old, new = (densevit.create_backbone("vit", variant="nano", patch_size=p, image_size=14 * p) for p in (16, 8))
    found = load_state(new, old.state_dict(), "old.pth")
    assert found.adapted == [("stem.projection.weight", (128, 3, 16, 16), (128, 3, 8, 8), "patch kernel resized")]
    torch.testing.assert_close(new.stem.projection.weight, resize_kernel(old.stem.projection.weight, (8, 8)))


def test_grey_kernel_is_expanded_to_rgb():
    module, state = nn.Sequential(nn.Conv2d(3, 4, 3)), {"0.weight": torch.randn(4, 1, 3, 3), "0.bias": torch.randn(4)}
    found = load_state(module, state, "grey.pth")
    assert found.adapted == [("0.weight", (4, 1, 3, 3), (4, 3, 3, 3), "grey-scale kernel expanded to RGB")]
    grey = torch.randn(1, 1, 9, 9)
    torch.testing.assert_close(module(grey.expand(-1, 3, -1, -1)), F.conv2d(grey, state["0.weight"], state["0.bias"]))


@pytest.mark.parametrize("shape", [(4, 4, 3, 3), (4, 2, 3, 3), (5, 3, 3, 3)])
def test_other_kernels_raise(shape):
    with pytest.raises(WeightsError, match="have another shape"):
        load_state(nn.Conv2d(3, 4, 3, bias=False), {"weight": torch.randn(shape)}, "rgbd.pth")


def test_kernels_of_other_layers_are_not_resized():
    with pytest.raises(WeightsError, match="have another shape"):
        load_state(nn.Conv2d(8, 8, 3, bias=False), {"weight": torch.randn(8, 8, 5, 5)}, "old.pth")
