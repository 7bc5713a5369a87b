"""Merged blocks and folded batch norms give the outputs of the model, which stays as it is."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchvision.ops import FrozenBatchNorm2d

import densevit
from densevit.model import DenseModel
from densevit_export import file_comparison
from densevit_export.deployment import deployable, simplified
from densevit_export.graph import ExportedGraph


def randomised(module: nn.Module) -> Any:
    """All weights and statistics of norms are random."""
    for norm in norms(module):
        nn.init.normal_(norm.running_mean, std=0.5)
        nn.init.uniform_(norm.running_var, 0.5, 2)
        nn.init.uniform_(norm.weight.data, 0.5, 1.5)
        nn.init.normal_(norm.bias.data, std=0.3)
    return module.eval()


def norms(module: nn.Module) -> list[Any]:
    return [one for one in module.modules() if isinstance(getattr(one, "running_mean", None), Tensor)]


def folded(module: nn.Module, x: Tensor) -> nn.Module:
    """The folded module, which computes the same."""
    made = simplified(randomised(module), lambda copied: copied(x))
    with torch.no_grad():
        torch.testing.assert_close(made(x), module(x), rtol=1e-5, atol=1e-4)
    return made


def test_a_model_without_batch_norms_gives_the_same_outputs():
    heads = {"x": {"name": "one_stage", "width": 32}}
    model: DenseModel = randomised(densevit.create_model({"name": "resnet", "depth": 18}, heads, ["a", "b", "c"]))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    made = deployable(model)
    assert norms(model) and not norms(made) and not made.training
    images = torch.from_numpy(file_comparison.example_images((75, 103), 2, 1))
    with torch.no_grad():
        expected, found = ExportedGraph(model)(images), ExportedGraph(made)(images)
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-4, atol=1e-4, msg=name)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in (*model.modules(), *made.modules()))


# ---- layers ----


class Shared(nn.Module):
    """A convolution whose output is normed once, added, or normed by two norms."""

    def __init__(self, use: str) -> None:
        super().__init__()
        self.conv, self.norm, self.other, self.use = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.BatchNorm2d(4), use

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        if self.use == "residual":
            return self.norm(y) + y
        if self.use == "two norms":
            return self.norm(y) + self.other(y)
        if self.use == "two calls":
            return self.norm(y) + self.norm(self.conv(x.flip(3)))
        return self.norm(y.relu())


@pytest.mark.parametrize(
    ("use", "left"),
    [("residual", 2), ("two norms", 2), ("two calls", 1), ("relu", 2)],
)
def test_a_norm_is_folded_only_if_nothing_else_needs_the_output(use: str, left: int):
    """`other` stays where it is not called."""
    assert len(norms(folded(Shared(use), torch.randn(2, 3, 9, 8)))) == left


@pytest.mark.parametrize(
    ("layers", "shape", "left"),
    [
        (lambda: [nn.Conv2d(4, 8, 3, groups=4), nn.BatchNorm2d(8), nn.ReLU(inplace=True)], (2, 4, 9, 8), 0),
        (lambda: [nn.ConvTranspose2d(3, 4, 2, stride=2), nn.BatchNorm2d(4)], (2, 3, 9, 8), 0),
        (lambda: [nn.Linear(3, 4), nn.BatchNorm1d(4)], (5, 3), 0),
        (lambda: [nn.Conv2d(3, 4, 1, bias=False), FrozenBatchNorm2d(4)], (2, 3, 9, 8), 0),
        (lambda: [nn.BatchNorm2d(3), nn.Conv2d(3, 4, 3)], (2, 3, 9, 8), 1),
        (lambda: [nn.Linear(3, 4), nn.BatchNorm1d(5)], (2, 5, 3), 1),  # normalises rows, not the layer's outputs
    ],
)
def test_layers_with_batch_norms(layers: Callable[[], list[nn.Module]], shape: tuple[int, ...], left: int):
    assert len(norms(folded(nn.Sequential(*layers()), torch.randn(shape)))) == left


# ---- merged blocks ----


# ---- files ----
