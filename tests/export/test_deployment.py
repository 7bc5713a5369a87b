"""Merged blocks and folded batch norms give the outputs of the model, which stays as it is."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import FrozenBatchNorm2d

import densevit
from densevit.interfaces import Backbone
from densevit.model import DenseModel
from densevit_export import file_comparison, runtimes
from densevit_export.deployment import deployable, simplified
from densevit_export.graph import ExportedGraph
from tests.small_models import evaluated_at


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
    torch.manual_seed(0)
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


class Branches(nn.Module):
    """A third party's block: a 3x3 and a 1x1 convolution, added."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.wide, self.narrow = nn.Conv2d(channels, channels, 3, padding=1), nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.wide(x) + self.narrow(x)

    def merged(self) -> nn.Module:
        one = nn.Conv2d(self.wide.in_channels, self.wide.out_channels, 3, padding=1)
        one.weight.copy_(self.wide.weight + F.pad(self.narrow.weight, (1, 1, 1, 1)))
        one.bias.copy_(self.wide.bias + self.narrow.bias)
        return one


class Branched(Backbone):
    channels, strides = (6, 6), (16, 32)

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 6, 16, stride=16), nn.BatchNorm2d(6)
        self.block = Branches(6)
        self.again, self.block_norm = Branches(6), nn.BatchNorm2d(6)
        self.head = nn.Linear(6, 10)  # of the classification that the backbone was trained for

    def forward(self, images: Tensor) -> list[Tensor]:
        x = self.block_norm(self.again(self.block(self.norm(self.stem(images)))))
        return [x, F.max_pool2d(x, 2)]


# ---- files ----


@pytest.mark.integration
def test_a_file_has_merged_blocks_and_neither_batch_norms_nor_unused_weights(tmp_path: Path):
    import onnx

    torch.manual_seed(0)
    classes = [densevit.Class(name, i, (0, 0, 0)) for i, name in enumerate("abc")]
    backbone = Branched()
    head = densevit.create_head("one_stage", backbone.channels, backbone.strides, classes, width=16, fusion_blocks=0)
    model = randomised(DenseModel(backbone, {"x": head}))
    exported = densevit.export(evaluated_at(model, 96), tmp_path / "model.onnx", quiet=True)
    assert exported.difference <= 1e-4
    graph = onnx.load(exported.path).graph
    weights = {one.name: tuple(one.dims) for one in graph.initializer}
    assert "BatchNormalization" not in {node.op_type for node in graph.node}
    assert weights.keys() <= {name for node in graph.node for name in node.input}
    assert (6, 6, 3, 3) in weights.values() and (10, 6) not in weights.values()
    assert not any("narrow" in name for name in weights)
    run = runtimes.load(exported.path)
    for count in (1, 2, 5):
        images = file_comparison.example_images((75, 107), count, count)
        found = file_comparison.differences(ExportedGraph(model), run, images)
        assert max(found.values()) <= 1e-4, found
