"""Joined dropout against separate operations with the same mask, which is read off a first call."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from densevit.layers.fast.dropout import Dropout, dropout_matmul, relu_dropout

P = 0.1
Function = Callable[..., Tensor]


def seeded(function: Function, *inputs: Tensor, autocast: bool = False) -> list[Tensor]:
    """The result and the gradients of the inputs."""
    torch.manual_seed(0)
    leaves = [x.detach().clone().requires_grad_() for x in inputs]
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        result = function(*leaves)
    return [result, *torch.autograd.grad(result, leaves, torch.linspace(-1, 1, result.numel()).view_as(result))]


@pytest.mark.parametrize("p", [P, 0.5])
def test_share_of_dropped_elements(p: float) -> None:
    torch.manual_seed(0)
    y = relu_dropout(torch.ones(1001, 999), p)
    assert y.unique().tolist() == pytest.approx([0, 1 / (1 - p)], rel=1e-4)
    dropped = (y == 0).double()
    deviation = math.sqrt(p * (1 - p) / y.numel())
    assert abs(dropped.mean() - p) < 4 * deviation
    for distance in range(1, 6):  # elements that share random bits, and others
        pairs = dropped.flatten()[:-distance] * dropped.flatten()[distance:]
        assert abs(pairs.mean() - p**2) < 4 * math.sqrt(p**2 / y.numel())
    assert not torch.equal(relu_dropout(torch.ones(1001, 999), p), y)


@pytest.mark.parametrize(
    ("joined", "separate", "p"), [(lambda x: relu_dropout(x, P), torch.relu, P), (Dropout(0.5), torch.clone, 0.5)]
)
def test_dropout_with_and_without_relu(joined: Function, separate: Function, p: float) -> None:
    x = torch.randn(7, 33, generator=torch.Generator().manual_seed(1))
    noise = seeded(joined, torch.ones_like(x))[0].detach()
    assert noise.unique().tolist() == pytest.approx([0, 1 / (1 - p)], rel=1e-4)
    for found, wanted in zip(seeded(joined, x), seeded(lambda x: separate(x) * noise, x), strict=True):
        torch.testing.assert_close(found, wanted)
    assert torch.equal(Dropout(p).eval()(x), x) and torch.equal(Dropout(0.0)(x), x)


@pytest.mark.parametrize("autocast", [False, True])
def test_dropout_matmul(autocast: bool) -> None:
    random = torch.Generator().manual_seed(1)
    weights = torch.randn(2, 3, 17, 40, generator=random).softmax(-1)
    value = torch.randn(2, 40, 3, 8, generator=random).transpose(1, 2)
    ones, unit = torch.ones_like(weights), torch.eye(40).expand(2, 3, 40, 40)
    noise = seeded(lambda w, v: dropout_matmul(w, v, P), ones, unit)[0].detach()
    found = seeded(lambda w, v: dropout_matmul(w, v, P), weights, value, autocast=autocast)
    expected = seeded(lambda w, v: (w * noise) @ v, weights, value)
    assert found[0].dtype == (torch.bfloat16 if autocast else torch.float32)
    for x, wanted in zip(found, expected, strict=True):
        assert (x.float() - wanted).abs().max() < (2e-2 if autocast else 1e-6) * wanted.abs().max()


@pytest.mark.parametrize("p", [0.0, 1.0])
def test_nothing_or_all_is_dropped(p: float) -> None:
    x = torch.randn(5, 6, requires_grad=True)
    assert torch.equal(relu_dropout(x, p), x.relu() * (1 - p))
    assert torch.equal(dropout_matmul(x, torch.eye(6), p), x * (1 - p))
