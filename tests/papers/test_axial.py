"""Axial attention beside equation 4 of Wang et al. 2020; spans of the tables."""

import pytest
import torch
from torch import nn

from densevit_papers.attention_resnet import AttentionResNet
from densevit_papers.axial import Axial, AxialAttention
from tests.papers.small_models import randomise


def norm_by_hand(norm: nn.BatchNorm2d, channel: int, x: torch.Tensor) -> torch.Tensor:
    scale = norm.weight[channel] / (norm.running_var[channel] + norm.eps).sqrt()
    return (x - norm.running_mean[channel]) * scale + norm.bias[channel]


def line_by_hand(layer: AxialAttention, x: torch.Tensor) -> torch.Tensor:
    """A row or column (C, L), one head and one cell o at a time, with a batch norm of each term (section 4.1)."""
    C, L = x.shape
    D, reach, heads = C // layer.num_heads, layer.reach, layer.num_heads
    projected = layer.qkv.weight[:, :, 0, 0] @ x
    projected = torch.stack([norm_by_hand(layer.qkv_norm, c, row) for c, row in enumerate(projected)])
    r_q, r_k, r_v = layer.relative.split([D // 2, D // 2, D])
    y = torch.zeros(C, L, dtype=x.dtype)
    for head in range(heads):
        q, k, v = projected[2 * D * head : 2 * D * (head + 1)].split([D // 2, D // 2, D])
        for o in range(L):
            near = [p for p in range(L) if abs(p - o) <= reach]
            scores = []
            for p in near:  # tables of queries and values are in the order of o - p, those of keys in that of p - o
                terms = (q[:, o] @ k[:, p], q[:, o] @ r_q[:, o - p + reach], k[:, p] @ r_k[:, p - o + reach])
                scores.append(
                    sum(norm_by_hand(layer.similarity_norm, n * heads + head, t) for n, t in enumerate(terms))
                )
            weights = torch.stack(scores).softmax(0)
            content = sum(w * v[:, p] for w, p in zip(weights, near, strict=True))
            position = sum(w * r_v[:, o - p + reach] for w, p in zip(weights, near, strict=True))
            for d in range(D):
                channel = 2 * (head * D + d)
                y[head * D + d, o] = norm_by_hand(layer.output_norm, channel, content[d])
                y[head * D + d, o] += norm_by_hand(layer.output_norm, channel + 1, position[d])
    return y


@pytest.mark.parametrize(("axis", "reach"), [("height", 6), ("width", 1)])
def test_attention_matches_the_equation(axis, reach):
    """With tables larger than the map, and smaller, where cells further away are not attended to."""
    layer = AxialAttention(8, 2, reach, axis).double().eval()
    randomise(layer)
    x = torch.randn(2, 8, 4, 5, dtype=torch.float64)
    with torch.no_grad():
        y = layer(x)
        for b in range(2):
            if axis == "height":
                expected = torch.stack([line_by_hand(layer, x[b, :, :, j]) for j in range(5)], dim=2)
            else:
                expected = torch.stack([line_by_hand(layer, x[b, :, i]) for i in range(4)], dim=1)
            torch.testing.assert_close(y[b], expected)


@pytest.mark.parametrize(("span", "lengths"), [(None, [111, 111, 55, 27]), (65, [65, 65, 65, 65]), (1, [1, 1, 1, 1])])
def test_tables_have_the_span(span, lengths):
    """Without a span that of the authors' code: each offset of the map of a stage's first block, for 224 x 224."""
    with torch.device("meta"):
        resnet = AttentionResNet(width=0.5, axial=Axial(span=span))
    stages = (resnet.layer1, resnet.layer2, resnet.layer3, resnet.layer4)
    assert [stage[0].conv2[0].relative.shape[1] for stage in stages] == lengths
    if span is None:
        assert [stage[1].conv2[0].relative.shape[1] for stage in stages] == [111, 55, 27, 13]
