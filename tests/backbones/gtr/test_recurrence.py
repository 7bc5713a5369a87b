"""Gated linear attention: both forms against hand-made values and each other, with gates of any strength."""

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from densevit_backbones.gtr import recurrence
from densevit_backbones.gtr.recurrence import chunked, recurrent


def inputs(tokens: int, strength: float) -> list[Tensor]:
    """Query, key, value and log decay of 2 images and 3 heads."""
    generator = torch.Generator().manual_seed(0)
    shapes = [(2, 3, tokens, channels) for channels in (8, 8, 6, 8)]
    query, key, value, gate = (torch.randn(shape, generator=generator, dtype=torch.double) for shape in shapes)
    return [query, key, value, F.logsigmoid(strength * gate) / 16]


@pytest.mark.parametrize("form", [recurrent, chunked])
def test_a_token_takes_up_what_the_gates_leave_of_earlier_ones(form):
    """Channel 1 halves, channel 2 stays; 1 / sqrt(4) of the sums."""
    query = torch.ones(1, 1, 3, 4)
    key = torch.tensor([[1.0, 2, 0, 0], [3, 0, 0, 0], [0, 1, 0, 0]])[None, None]
    value = torch.tensor([[1.0], [10], [100]])[None, None]
    log_decay = torch.tensor([math.log(0.5), 0, 0, 0]).expand(1, 1, 3, 4)
    expected = [(1 + 2) / 2, (0.5 + 30 + 2) / 2, (0.25 + 15 + 2 + 100) / 2]
    torch.testing.assert_close(form(query, key, value, log_decay).flatten(), torch.tensor(expected))


@pytest.mark.parametrize("strength", [1, 100, 3000])  # up to decays of exp(-600) per token
@pytest.mark.parametrize("tokens", [1, 64, 200])
def test_chunks_give_what_tokens_give(tokens, strength):
    """Also in float32, where exp(-88) is the least normal number, and with their gradients."""
    x = [tensor.requires_grad_() for tensor in inputs(tokens, strength)]
    expected = recurrent(*x)
    gradients = torch.autograd.grad(expected.sin().sum(), x)
    output = chunked(*x)
    torch.testing.assert_close(output, expected, rtol=0, atol=1e-13)
    torch.testing.assert_close(torch.autograd.grad(output.sin().sum(), x), gradients, rtol=1e-12, atol=1e-12)
    low = [tensor.detach().float().requires_grad_() for tensor in x]
    output = chunked(*low)
    torch.testing.assert_close(output.double(), expected, rtol=0, atol=1e-5)
    for gradient, exact in zip(torch.autograd.grad(output.sin().sum(), low), gradients, strict=True):
        assert (gradient - exact).abs().max() <= 1e-5 * exact.abs().max()


def test_gradients_of_chunks_are_those_of_finite_differences(monkeypatch):
    monkeypatch.setattr(recurrence, "_CHUNK", 4)
    x = [torch.randn(1, 2, 9, 3, dtype=torch.double, requires_grad=True) for _ in range(4)]
    assert torch.autograd.gradcheck(lambda *x: chunked(*x[:3], -x[3].exp()), x)
