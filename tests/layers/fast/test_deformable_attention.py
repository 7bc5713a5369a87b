"""What the sums over four cells have and `grid_sample` does not; tests/layers/test_deformable_attention.py has both."""

import math

import pytest
import torch

from densevit.layers import deformable_attention as plain
from densevit.layers.fast import deformable_attention
from densevit.layers.fast.deformable_attention import multi_scale_deformable_attention
from tests.layers.test_deformable_attention import SHAPES, make_inputs


def test_atomic_additions_give_the_same_gradient(monkeypatch):
    """The backward pass that a GPU takes without `deterministic`."""
    value, locations, weights = make_inputs()
    ours = multi_scale_deformable_attention(value, SHAPES, locations, weights)
    (expected,) = torch.autograd.grad(ours.sum(), value, retain_graph=True)
    monkeypatch.setattr(deformable_attention, "_is_atomic", lambda *_: True)
    (found,) = torch.autograd.grad(ours.sum(), value)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def test_points_far_outside_give_zero_and_no_gradient():
    value, locations, weights = make_inputs()
    far = torch.full_like(locations, math.inf)
    far[:, ::2], far[:, ::3] = -1e30, 5.0
    far = far.detach().requires_grad_()
    x = multi_scale_deformable_attention(value, SHAPES, far, weights)
    assert not x.any()
    for gradient in torch.autograd.grad(x.sum(), (value, far, weights)):
        assert not gradient.any()


@pytest.mark.parametrize(
    ("queries", "chunks", "dtype"), [(9, 1, torch.bfloat16), (40000, 3, torch.float32), (50000, 6, torch.float32)]
)
def test_chunks_of_images_and_heads_give_the_same(queries, chunks, dtype):
    """One chunk, one an image, and two an image."""
    value, locations, weights = inputs = make_inputs([(3, 4), (2, 2)], batch=3, queries=queries)
    value = value.to(dtype)
    assert len(deformable_attention._chunks(value, weights.flatten(3))) == chunks
    ours = multi_scale_deformable_attention(value, [(3, 4), (2, 2)], locations, weights)
    others = plain.multi_scale_deformable_attention(value.float(), [(3, 4), (2, 2)], locations, weights).to(dtype)
    tolerance = 1e-4 if dtype == torch.float32 else 2e-2
    torch.testing.assert_close(ours, others, atol=tolerance, rtol=tolerance)
    gradient = torch.randn(ours.shape, generator=torch.Generator().manual_seed(1)).to(dtype)
    own, other = (torch.autograd.grad(x, inputs, gradient) for x in (ours, others))
    for a, b in zip(own, other, strict=True):
        torch.testing.assert_close(a, b, atol=tolerance * b.abs().max().item(), rtol=tolerance)
