"""The local relation layer beside the equations of Hu et al. 2019."""

import pytest
import torch
from torch.nn import functional as F

from densevit_papers.lr_net import LocalRelation
from tests.papers.small_models import randomise

SIMILARITIES = {
    "squared_difference": lambda q, k: -((q - k) ** 2),
    "absolute_difference": lambda q, k: -abs(q - k),
    "multiplication": lambda q, k: q * k,
}


def layer_by_hand(layer: LocalRelation, x: torch.Tensor) -> torch.Tensor:
    """One image (C, H, W), one cell and one group of channels at a time."""
    C, H, W = x.shape
    reach, s, m = layer.kernel_size // 2, layer.stride, layer.sharing
    phi = SIMILARITIES[layer.similarity]
    query, key = (torch.einsum("gc,chw->ghw", part.weight[:, :, 0, 0], x) for part in (layer.query, layer.key))
    first, second = layer.geometry[0], layer.geometry[2]
    y = torch.zeros(C, -(-H // s), -(-W // s), dtype=x.dtype)
    for i in range(0, H, s):
        for j in range(0, W, s):
            near = [
                (a, b)
                for a in range(max(i - reach, 0), min(i + reach + 1, H))
                for b in range(max(j - reach, 0), min(j + reach + 1, W))
            ]
            offsets = torch.tensor([(a - i, b - j) for a, b in near], dtype=x.dtype) / reach
            prior = F.linear(F.linear(offsets, first.weight, first.bias).relu(), second.weight, second.bias)  # (K, G)
            for g in range(len(query)):
                scores = [phi(query[g, i, j], key[g, a, b]) + p[g] for (a, b), p in zip(near, prior, strict=True)]
                weights = torch.stack(scores).softmax(0)
                cells = torch.stack([x[g * m : (g + 1) * m, a, b] for a, b in near])
                y[g * m : (g + 1) * m, i // s, j // s] = weights @ cells
    return torch.einsum("dc,chw->dhw", layer.output.weight[:, :, 0, 0], y)


@pytest.mark.parametrize(
    ("similarity", "channels", "stride", "size"),
    [
        ("squared_difference", 8, 1, (5, 6)),
        ("absolute_difference", 10, 2, (5, 8)),  # groups of 4, 4 and 2
        ("multiplication", 8, 2, (4, 5)),
    ],
)
def test_layer_matches_the_equations(similarity, channels, stride, size):
    layer = LocalRelation(channels, 5, 4, similarity, stride).double()
    randomise(layer)
    x = torch.randn(2, channels, *size, dtype=torch.float64)
    with torch.no_grad():
        for image, found in zip(x, layer(x), strict=True):
            torch.testing.assert_close(found, layer_by_hand(layer, image))
