"""The local relation layer beside the equations of Hu et al. 2019."""

import math

import pytest
import torch
from torch.nn import functional as F

from densevit_papers.lr_net import LocalRelation
from tests.papers.small_models import neighbours, randomise

SIMILARITIES = {
    "squared_difference": lambda q, k: -((q - k) ** 2),
    "absolute_difference": lambda q, k: -abs(q - k),
    "multiplication": lambda q, k: q * k,
}


def layer_by_hand(layer: LocalRelation, x: torch.Tensor) -> torch.Tensor:
    """Images (B, C, H, W): each cell's neighbours in a column, one group of channels at a time."""
    K, s, m = layer.kernel_size, layer.stride, layer.sharing
    query, key = F.conv2d(x, layer.query.weight), F.conv2d(x, layer.key.weight)
    steps = torch.linspace(-1, 1, K, dtype=x.dtype)
    prior = layer.geometry[2](layer.geometry[0](torch.cartesian_prod(steps, steps)).relu())  # (K * K, G)
    cells, inside = neighbours(x, K), neighbours(torch.ones_like(x[:, :1]), K) > 0
    groups = []
    for g in range(query.shape[1]):
        scores = SIMILARITIES[layer.similarity](query[:, g].flatten(1)[:, None], neighbours(key[:, g : g + 1], K)[:, 0])
        weights = (scores + prior[:, g, None]).masked_fill(~inside[:, 0], -math.inf).softmax(1)
        groups.append((cells[:, g * m : (g + 1) * m] * weights[:, None]).sum(2))
    y = torch.cat(groups, dim=1).view_as(x)[..., ::s, ::s]
    return F.conv2d(y, layer.output.weight)


@pytest.mark.parametrize(
    ("similarity", "channels", "stride", "size"),
    [
        ("squared_difference", 8, 1, (5, 6)),
        ("absolute_difference", 10, 2, (5, 8)),  # groups of 4, 4 and 2
        ("multiplication", 8, 2, (4, 5)),
    ],
)
@torch.no_grad()
def test_layer_matches_the_equations(similarity, channels, stride, size):
    layer = LocalRelation(channels, 5, 4, similarity, stride).double()
    randomise(layer)
    x = torch.randn(2, channels, *size, dtype=torch.float64)
    torch.testing.assert_close(layer(x), layer_by_hand(layer, x))
