"""Fixtures for backbone tests: comparison of features and gradients."""

from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor

Features = Callable[[Tensor], Sequence[Tensor]]


def _assert_equal_features(ours: Features, reference: Features, images: Tensor) -> None:
    own = images.clone().requires_grad_()
    other = images.clone().requires_grad_()
    found, expected = ours(own), reference(other)
    assert len(found) == len(expected)
    weights = [torch.randn_like(x) for x in found]
    for x, y in zip(found, expected, strict=True):
        assert y.abs().mean() > 0.1
        torch.testing.assert_close(x, y, atol=1e-4, rtol=1e-4)
    for features in (found, expected):
        torch.stack([(x * w).mean() for x, w in zip(features, weights, strict=True)]).sum().backward()
    scale = 1 / other.grad.abs().max()
    assert other.grad.ne(0).any(dim=1).float().mean() > 0.5
    torch.testing.assert_close(own.grad * scale, other.grad * scale, atol=1e-4, rtol=1e-3)


@pytest.fixture(scope="session")
def assert_equal_features() -> Callable[[Features, Features, Tensor], None]:
    """Features within 1e-4, and gradients of a random weighted sum with respect to the images."""
    return _assert_equal_features
