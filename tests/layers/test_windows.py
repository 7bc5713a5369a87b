"""Windows of feature maps, shifted, masked and reversed, and their tables of relative positions."""

import pytest
import torch
from torch.nn import functional as F

from densevit.layers import tracing
from densevit.layers.windows import resize_bias_table, shifted_windows, window_partition

CASES = [((7, 9), 4, 2, "per_axis"), ((3, 10), 4, 2, "both_axes"), ((3, 10), 4, 2, "dense"), ((5, 6), 3, 0, "per_axis")]


def windows_step_by_step(qkv, padding_value, window, shift, heads, rule):
    """Padding, shift, partition and split into heads one after another, (3, B * windows * heads, N, D)."""
    _, H, W, C = qkv.shape
    x = F.pad(qkv - padding_value, (0, 0, 0, -W % window, 0, -H % window)) + padding_value
    sizes = x.shape[1:3]
    compared = {"per_axis": sizes, "both_axes": [min(sizes)] * 2, "dense": [window + 1] * 2}[rule]
    steps = [shift if size > window else 0 for size in compared]
    x = window_partition(x.roll((-steps[0], -steps[1]), dims=(1, 2)), window)
    return x.view(len(x), -1, 3, heads, C // 3 // heads).permute(2, 0, 3, 1, 4).flatten(1, 2)


@pytest.mark.parametrize("exported", [False, True])
@pytest.mark.parametrize(("size", "window", "shift", "rule"), CASES)
def test_shifted_windows_and_gradients_match_the_separate_steps(size, window, shift, rule, exported, monkeypatch):
    """exported: as in an exported file."""
    monkeypatch.setattr(tracing, "is_exporting", lambda: exported)
    heads, D = 2, 3
    qkv = torch.randn(2, *size, 3 * heads * D, requires_grad=True)
    padding_value = torch.randn(3 * heads * D, requires_grad=True)
    windows = shifted_windows(qkv, window, shift, heads, rule)
    found, expected = (
        windows.partition(qkv, padding_value).flatten(1, 2),
        windows_step_by_step(qkv, padding_value, window, shift, heads, rule),
    )
    torch.testing.assert_close(found, expected)
    weights = torch.randn_like(found)
    # Step by step, `padding_value` is also added to and subtracted from the map, which leaves rounding errors.
    own, other = (
        torch.autograd.grad((x * weights).sum(), [qkv, padding_value], allow_unused=True) for x in (found, expected)
    )
    torch.testing.assert_close(own[0], other[0])
    torch.testing.assert_close(
        torch.zeros_like(padding_value) if own[1] is None else own[1], other[1], atol=1e-4, rtol=1e-4
    )


@pytest.mark.parametrize(("old", "new"), [(7, 12), (8, 5), (7, 7)])
def test_resized_bias_table_matches_timm(old, new):
    from timm.layers.pos_embed_rel import resize_rel_pos_bias_table_simple

    table = torch.randn((2 * old - 1) ** 2, 3)
    resized = resize_bias_table(table, new)
    shape = ((2 * new - 1) ** 2, 3)
    torch.testing.assert_close(resized, resize_rel_pos_bias_table_simple(table, (new, new), shape))
    assert resized.shape == shape
