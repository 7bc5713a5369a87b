"""The module that is named as the first with a value that is not finite, in small networks."""

from collections.abc import Callable

import pytest
import torch
from torch import nn

from densevit.layers import checkpointing
from densevit.training.loop.first_non_finite import find


class Between(nn.Module):
    """Divides by zero in its own forward, between two submodules."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x):
        x = self.first(x)
        return self.second((x - x) / (x - x))


class Root(nn.Module):
    """The gradient of the square root is infinite at 0."""

    def forward(self, x):
        return (x - x.detach()).sqrt()


class Mask(nn.Module):
    def forward(self, x):
        return torch.zeros_like(x).index_fill(1, torch.tensor([0]), -torch.inf)


class Masked(nn.Module):
    """Adds -inf to masked scores, as attention does; all is finite after the softmax."""

    def __init__(self) -> None:
        super().__init__()
        self.mask = Mask()

    def forward(self, x):
        return (x + self.mask(x)).softmax(-1)


class Checkpointed(nn.Module):
    """Activations of its part are computed again in the backward pass."""

    def __init__(self, part: nn.Module) -> None:
        super().__init__()
        self.part = part

    def forward(self, x):
        return checkpointing.run(self.part, x, checkpointed=True)


def in_place(part: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Linear(4, 4), nn.ReLU(inplace=True), part)


def found_in(part: nn.Module):
    model = nn.Sequential(nn.Linear(4, 4), part, nn.Linear(4, 1))
    x = torch.arange(8.0).view(2, 4)
    return find({"model": model}, lambda: {"loss": model(x).sum()})


@pytest.mark.parametrize(
    ("part", "what", "layer"),
    [
        (Masked, "", ""),
        (Between, "output", "model.1 (Between)"),
        (Root, "gradient", "model.1 (Root)"),
        (lambda: Checkpointed(in_place(Between())), "output", "model.1.part.2 (Between)"),
        (lambda: Checkpointed(nn.Sequential(nn.ReLU(), Root())), "gradient", "model.1.part.1 (Root)"),
    ],
)
def test_first_module_is_named(part: Callable[[], nn.Module], what: str, layer: str):
    found = found_in(part())
    assert (found.what, found.layer) == (what, layer)
    assert (what == "") == str(found).startswith("All outputs")


def test_a_parameter_or_a_loss_that_is_not_finite_is_named_and_gradients_stay():
    part = nn.Linear(4, 4)
    part.weight.grad = torch.ones(4, 4)
    found_in(part)
    assert torch.equal(part.weight.grad, torch.ones(4, 4))
    with torch.no_grad():
        part.weight[0, 0] = torch.nan
    said = str(found_in(part))
    assert said.startswith("The first non-finite value is that of the parameter model.1.weight: float32 (4, 4) from ")
    assert said.endswith(", 1 NaN of 16 values")
    model = nn.Linear(1, 1)
    found = find({"model": model}, lambda: {"a": model(torch.ones(1)).sum(), "b": (model.weight * 0 - 1).log().sum()})
    assert found.what == "loss"
