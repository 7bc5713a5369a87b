"""A state dict that tests of files write, and its comparison."""

from collections.abc import Mapping

import torch
from torch import Tensor

STATE = {"a.weight": torch.arange(6.0).view(2, 3), "a.bias": torch.tensor([1.0, -1.0])}


def equal(found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> bool:
    """The same names, values and types."""
    return found.keys() == expected.keys() and all(
        torch.equal(found[name], value) and found[name].dtype == value.dtype for name, value in expected.items()
    )


def assert_state(found: Mapping[str, Tensor], expected: Mapping[str, Tensor] = STATE) -> None:
    assert equal(found, expected), f"{ {name: x.shape for name, x in found.items()} }"
