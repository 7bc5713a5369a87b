"""ViL beside attention worked out cell by cell."""

import math

import pytest
import torch

from densevit_papers.vision_longformer import LongformerAttention
from tests.gradient_comparison import assert_same_with_gradients
from tests.random_weights import randomise


def attention_by_hand(layer: LongformerAttention, x: torch.Tensor, H: int, W: int) -> torch.Tensor:
    """x: (P + H * W, C), of one image. Each query has a list of keys and biases."""
    P, w, heads = layer.num_tokens, layer.window, layer.num_heads
    query, key, value = (part.view(len(x), heads, -1) for part in layer.qkv(x).chunk(3, dim=-1))
    side = 4 * w - 1
    rows = []
    for n in range(len(x)):
        keys, biases = [], []
        for m in range(len(x)):
            (i, j), (a, b) = divmod(n - P, W), divmod(m - P, W)
            if n < P:
                keys.append(m)
                biases.append(layer.token_bias[2 + n, :, m] if m < P else layer.token_bias[0, :, n])
            elif m < P:
                keys.append(m)
                biases.append(layer.token_bias[1, :, m])
            elif abs(i // w - a // w) <= 1 and abs(j // w - b // w) <= 1:
                keys.append(m)
                biases.append(layer.offset_bias[(i - a + 2 * w - 1) * side + j - b + 2 * w - 1])
        scores = torch.einsum("hd,khd->kh", query[n], key[keys]) / math.sqrt(query.shape[-1]) + torch.stack(biases)
        rows.append(torch.einsum("kh,khd->hd", scores.softmax(0), value[keys]).flatten())
    return layer.output(torch.stack(rows))


@pytest.mark.parametrize(("size", "tokens"), [((5, 7), 1), ((8, 6), 2), ((4, 3), 1)], ids=str)
def test_attention_matches_the_definition(size, tokens):
    """With windows of 2: of more than two windows a side, with incomplete windows, and full attention."""
    layer = LongformerAttention(6, 3, 2, tokens).double()
    randomise(layer)
    x = torch.randn(2, tokens + size[0] * size[1], 6, dtype=torch.float64, requires_grad=True)
    found = layer(x, size)
    expected = torch.stack([attention_by_hand(layer, image, *size) for image in x])
    assert_same_with_gradients([found], [expected], [x, *layer.parameters()], tolerance=1e-7)
