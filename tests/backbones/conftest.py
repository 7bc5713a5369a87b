"""Fixtures for backbone tests: randomised weights, and comparison of features and gradients."""

from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor, nn

Features = Callable[[Tensor], Sequence[Tensor]]


def _randomise(module: nn.Module) -> None:
    for name, parameter in module.named_parameters():
        if parameter.ndim == 1 and name.endswith("weight"):  # a norm's
            nn.init.normal_(parameter, 1.0, 0.3)
        elif parameter.ndim == 1:
            nn.init.normal_(parameter, 0.0, 0.3)
        elif name.endswith("relative_position_bias_table"):
            nn.init.normal_(parameter, 0.0, 1.5)
        elif any(word in name for word in ("pos_embed", "position_embeddings", "position_table", "_token")):
            nn.init.normal_(parameter, 0.0, 1.0)
        else:
            nn.init.normal_(parameter, 0.0, parameter[0].numel() ** -0.5)
    for name, buffer in module.named_buffers():
        if name.endswith("running_mean"):
            nn.init.normal_(buffer, 0.0, 0.3)
        elif name.endswith("running_var"):
            nn.init.uniform_(buffer, 0.5, 2.0)


@pytest.fixture(scope="session")
def randomise() -> Callable[[nn.Module], None]:
    """Randomises parameters and statistics so that errors become visible."""
    return _randomise


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
