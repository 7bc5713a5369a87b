"""Attention beside its equation and torch's module."""

import pytest
import torch
from torch import nn

from densevit.layers import attention as plain
from densevit.layers.attention import MultiHeadAttention
from densevit.layers.fast import attention as fast
from densevit.layers.fast.replacement import replace_layers


@pytest.fixture(params=[plain, fast], ids=["plain", "fast"])
def attention(request):
    """The plain function, and the one that replaces it in a built model."""
    return request.param.attention


@pytest.mark.parametrize(
    ("queries", "keys", "bias"),
    [
        ((2, 3, 5, 8), (2, 3, 7, 8), None),
        ((2, 3, 5, 8), (2, 3, 7, 8), (2, 1, 1, 7)),
        ((2, 6, 3, 5, 8), (2, 6, 3, 5, 8), (6, 3, 5, 5)),  # shifted windows: (images, windows, heads, tokens, channels)
    ],
)
def test_attention_and_its_gradients_match_the_equation(queries, keys, bias, attention):
    parts = [torch.randn(shape, requires_grad=True) for shape in (queries, keys, keys)]
    added = None if bias is None else torch.randn(bias, requires_grad=True)
    inputs = [*parts, *([] if added is None else [added])]
    query, key, value = (x.double() for x in parts)
    scores = query @ key.mT / 8**0.5 + (0 if added is None else added.double())
    ours, expected = attention(*parts, added), (scores.softmax(-1) @ value).float()
    torch.testing.assert_close(ours, expected)
    weights = torch.randn_like(ours)
    own, other = (torch.autograd.grad((x * weights).sum(), inputs) for x in (ours, expected))
    torch.testing.assert_close(own, other)


def test_a_key_masked_by_minus_infinity_has_no_influence(attention):
    query, key, value = (torch.randn(1, 2, 4, 8) for _ in range(3))
    bias = torch.tensor([[0.0, float("-inf"), 0.0, 0.0]])
    visible = [0, 2, 3]
    torch.testing.assert_close(
        attention(query, key, value, bias), attention(query, key[..., visible, :], value[..., visible, :])
    )


def torchs_attention(ours: MultiHeadAttention, width: int, heads: int) -> nn.MultiheadAttention:
    """torch's module with our weights."""
    reference = nn.MultiheadAttention(width, heads, batch_first=True)
    projections = (ours.query, ours.key, ours.value)
    reference.load_state_dict(
        {
            "in_proj_weight": torch.cat([p.weight for p in projections]),
            "in_proj_bias": torch.cat([p.bias for p in projections]),
            "out_proj.weight": ours.output.weight,
            "out_proj.bias": ours.output.bias,
        }
    )
    return reference


@pytest.mark.parametrize("replaced", [False, True])
def test_multi_head_attention_matches_torch_with_padding(replaced):
    ours = MultiHeadAttention(12, 3).eval()
    if replaced:
        replace_layers(ours)
    for parameter in ours.parameters():
        nn.init.normal_(parameter, std=0.5)
    reference = torchs_attention(ours, 12, 3).eval()
    query, key, value = torch.randn(2, 5, 12, requires_grad=True), torch.randn(2, 7, 12), torch.randn(2, 7, 12)
    padding = torch.zeros(2, 7, dtype=torch.bool)
    padding[1, 4:] = True
    bias = torch.zeros(2, 1, 1, 7).masked_fill(padding[:, None, None], float("-inf"))
    found, expected = ours(query, key, value, bias), reference(query, key, value, key_padding_mask=padding)[0]
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    weights = torch.randn_like(found)
    (own,), (other,) = (torch.autograd.grad((x * weights).sum(), query) for x in (found, expected))
    torch.testing.assert_close(own, other, atol=1e-5, rtol=1e-5)


def test_an_fp32_bias_masks_under_autocast():
    layer = MultiHeadAttention(8, 2).eval()
    x = torch.randn(1, 6, 8)
    bias = torch.tensor([[0.0, 0.0, 0.0, 0.0, float("-inf"), float("-inf")]])
    with torch.autocast("cpu", torch.bfloat16):
        mixed = layer(x, x, x, bias)
    torch.testing.assert_close(mixed.float(), layer(x, x[:, :4], x[:, :4]), atol=0.02, rtol=0.05)


def test_width_must_be_a_multiple_of_num_heads():
    with pytest.raises(ValueError, match="width is 10; it must be a multiple of num_heads, 4"):
        MultiHeadAttention(10, 4)
