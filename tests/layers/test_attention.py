"""Attention beside its equation, and where it takes torch's fused kernel."""

import pytest
import torch

from densevit.layers import attention as plain
from densevit.layers.attention import MultiHeadAttention
from densevit.layers.fast import attention as fast
from tests.gradient_comparison import assert_same_with_gradients


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
    assert_same_with_gradients([ours], [expected], inputs)
    assert not attention(*parts, added, dropout=1.0).any()


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
