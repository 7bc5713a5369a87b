"""Two computations of one function: their outputs, and the gradients of a random weighting of them."""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor


def assert_same_with_gradients(
    found: Sequence[Tensor],
    expected: Sequence[Tensor],
    inputs: Iterable[Tensor],
    others: Iterable[Tensor] | None = None,
    tolerance: float = 1e-5,
    of_gradients: float | None = None,
) -> None:
    """Outputs to a tolerance; gradients to one of the largest number in each tensor.

    inputs: what `found` depends on. others: what `expected` depends on, in the same order; by default the same tensors.
    """
    weights = [torch.randn_like(x) for x in expected]
    for x, y in zip(found, expected, strict=True):
        assert y.std() > 0.01, "the case compares nothing"
        torch.testing.assert_close(x, y, rtol=tolerance, atol=tolerance)
    inputs = [*inputs]
    gradients = [
        torch.autograd.grad(outputs, [*of], weights, materialize_grads=True)
        for outputs, of in ((found, inputs), (expected, inputs if others is None else others))
    ]
    for x, y in zip(*gradients, strict=True):
        assert (x - y).abs().max() <= (of_gradients or tolerance) * y.abs().max()
