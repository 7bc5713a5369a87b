"""Stand-alone self-attention beside equation 3 and the stem of Ramachandran et al. 2019; their table 1."""

import math

import pytest
import torch
from torch.nn import functional as F

from densevit_papers.attention_resnet import AttentionResNet
from densevit_papers.sasa import BlockAttention, LocalAttention, StandAlone
from tests.papers.small_models import neighbours, randomise


def attention_by_hand(layer: LocalAttention, x: torch.Tensor) -> torch.Tensor:
    """Images (B, C, H, W): y_o = sum_p softmax_p(q_o k_p + q_o r_(p - o)) v_p, for each head."""
    K, heads = layer.kernel_size, layer.num_heads
    query, key, value = (F.conv2d(x, part.weight) for part in (layer.query, layer.key, layer.value))
    key, value = (neighbours(y, K).unflatten(1, (heads, -1)) for y in (key, value))  # (B, heads, D, K * K, N)
    rows, columns = layer.row_embeddings[:, None], layer.column_embeddings[None]
    r = torch.cat([rows.expand(-1, K, -1), columns.expand(K, -1, -1)], dim=2).flatten(0, 1)
    scores = torch.einsum("bhdn,bhdkn->bhkn", query.flatten(2).unflatten(1, (heads, -1)), key + r.T[..., None])
    inside = neighbours(torch.ones_like(x[:, :1]), K) > 0
    weights = scores.masked_fill(~inside, -math.inf).softmax(2)
    return torch.einsum("bhkn,bhdkn->bhdn", weights, value).reshape(x.shape)


@pytest.mark.parametrize(("kernel_size", "num_heads", "size"), [(3, 2, (5, 6)), (7, 1, (4, 9))])
def test_attention_matches_the_equation(kernel_size, num_heads, size):
    layer = LocalAttention(8, kernel_size, num_heads).double()
    randomise(layer)
    x = torch.randn(2, 8, *size, dtype=torch.float64)
    torch.testing.assert_close(layer(x), attention_by_hand(layer, x))


def stem_by_hand(layer: BlockAttention, x: torch.Tensor) -> torch.Tensor:
    """One image (3, H, W): attention in blocks of 4 x 4, with v_ab = sum_m p(a, b, m) W_m x_ab."""
    _, H, W = x.shape
    C = len(layer.query.weight)
    y, D = torch.zeros(C, H, W, dtype=x.dtype), C // 4
    for top in range(0, H, 4):
        for left in range(0, W, 4):
            pixels = [(i, j) for i in range(top, min(top + 4, H)) for j in range(left, min(left + 4, W))]
            values = []
            for i, j in pixels:
                position = layer.row_embeddings[i - top] + layer.column_embeddings[j - left]
                mixture = torch.stack([position @ embedding for embedding in layer.mixture_embeddings]).softmax(0)
                values.append(sum(p * (matrix @ x[:, i, j]) for p, matrix in zip(mixture, layer.values, strict=True)))
            inside = torch.stack([x[:, i, j] for i, j in pixels])
            query, key, value = inside @ layer.query.weight.T, inside @ layer.key.weight.T, torch.stack(values)
            for head in (slice(n * D, (n + 1) * D) for n in range(4)):
                result = (query[:, head] @ key[:, head].T).softmax(-1) @ value[:, head]
                for (i, j), row in zip(pixels, result, strict=True):
                    y[head, i, j] = row
    return y


@pytest.mark.parametrize("size", [(6, 9), (1, 3)], ids=str)
def test_stem_matches_the_equation(size):
    layer = BlockAttention(8).double()
    randomise(layer)
    x = torch.randn(2, 3, *size, dtype=torch.float64)
    with torch.no_grad():
        for image, found in zip(x, layer(x), strict=True):
            torch.testing.assert_close(found, stem_by_hand(layer, image))


def test_pooling_follows_attention_where_the_stride_is_2():
    with torch.device("meta"):
        resnet = AttentionResNet(26, sasa=StandAlone(stages=(3, 4)))
    attention, pooling = resnet.layer3[0].conv2
    assert isinstance(attention, LocalAttention) and isinstance(pooling, torch.nn.AvgPool2d)
    assert isinstance(resnet.layer3[1].conv2, LocalAttention)
    assert isinstance(resnet.layer2[0].conv2, torch.nn.Conv2d) and resnet.layer2[0].conv2.stride == (2, 2)
