"""Compilation by regions: a step of every backbone and head computes the same, and is compiled once."""

import copy
import pickle
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounterWithBackend
from torch._dynamo.utils import counters
from torch.nn import functional as F

import densevit
from densevit import registry
from densevit.interfaces import Backbone
from densevit.layers.drop_path import DropPath
from densevit.model import DenseModel, compiling
from densevit.model.compiling import LIMIT, regions
from tests.backbones.test_contract import CASES as BACKBONES
from tests.backbones.test_contract import factory
from tests.heads.cases import CASES as HEADS
from tests.heads.cases import CLASSES, batch_of, checked

SIZES = ((160, 192), (192, 192), (170, 161), (222, 164), (163, 219), (190, 201))
OTHER_SIZES = ((168, 172), (211, 164), (192, 192), (199, 165), (177, 183), (221, 196))
BATCHES = (2, 3, 2, 4, 2, 3)
GRIDS = {"vit relative"}  # compiled once for each grid: `Tensor.unfold` takes no symbolic sizes
BACKBONE_KINDS = [f"{name} {kind}" for name, kinds in BACKBONES.items() for kind in kinds]


class Pyramid(Backbone):
    """Maps without blocks, of any size."""

    def __init__(self, levels: int = 4) -> None:
        super().__init__()
        self.strides, self.channels = (4, 8, 16, 32)[:levels], (8,) * levels
        self.project = nn.Conv2d(3, 8, 1)

    def forward(self, images: Tensor) -> list[Tensor]:
        x = self.project(images)
        return [F.avg_pool2d(x, stride, ceil_mode=True) for stride in self.strides]


@pytest.mark.integration
def test_a_compiled_model_has_the_keys_of_an_uncompiled_one_and_its_copies_are_uncompiled() -> None:
    plain, model = (built(factory("vit", "sine"), "setr, naive") for _ in range(2))
    model.compile(backend="eager")
    assert model.state_dict().keys() == plain.state_dict().keys()
    torch.testing.assert_close(losses_of(model, (32, 48), 1, 0), losses_of(plain, (32, 48), 1, 0))
    part = model.with_heads({"head"})
    assert all(block._compiled_call_impl is not None for block in regions(part.backbone))
    for copied in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert all(module._compiled_call_impl is None for module in copied.modules())


def built(backbone: Callable[[], Backbone], head: str) -> DenseModel:
    """A model without dropout, of which compiled graphs draw other random numbers."""
    torch.manual_seed(0)
    case, part = HEADS[head], backbone()
    classes = () if registry.load("heads", case.head).task == "depth" else CLASSES
    own = densevit.create_head(case.head, part.channels, part.strides, classes, **case.options)
    model = DenseModel(part, {"head": checked(own)}).train()
    for module in model.modules():
        if isinstance(module, DropPath | nn.Dropout | nn.Dropout2d):
            module.eval()
    return model


def losses_of(model: DenseModel, size: tuple[int, int], count: int, seed: int) -> Tensor:
    """The sum of the losses of images with random labels, the last of which is padded."""
    batch = batch_of(model.heads["head"].required_targets, [size] * (count - 1) + [(size[0], size[1] * 2 // 3)], seed)
    torch.manual_seed(seed)
    outputs, targets = model(batch), batch["targets"]
    return torch.stack([*model.losses_of(outputs, targets).values()]).sum()


def check_compiled(build: Callable[[], DenseModel], by_grid: bool = False) -> None:
    """No graph break, no compilation after the first sizes, and the loss and gradients of the uncompiled model."""
    torch._dynamo.reset()
    counters.clear()
    plain, model, backend = build(), build(), CompileCounterWithBackend("aot_eager")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compiling, "repeated", list)  # also what small models have once, and convolutions
        model.compile(backend=backend)
    assert model.state_dict().keys() == plain.state_dict().keys()
    for seed, (size, count) in enumerate(zip(SIZES, BATCHES, strict=True)):
        losses_of(model, size, count, seed).backward()
    compiled = backend.frame_count
    model.load_state_dict(plain.state_dict())  # statistics of norms
    model.zero_grad()
    losses = []
    for seed, (size, count) in enumerate(zip(OTHER_SIZES, BATCHES, strict=True)):
        losses.append([losses_of(one, size, count, seed) for one in (plain, model)])
        torch.stack(losses[-1]).sum().backward()
    assert not counters["graph_break"]
    assert by_grid or backend.frame_count == compiled <= LIMIT
    for expected, found in losses:
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    for (name, one), (_, other) in zip(plain.named_parameters(), model.named_parameters(), strict=True):
        assert (one.grad is None) == (other.grad is None), name
        if one.grad is not None and other.grad is not None:
            assert (one.grad - other.grad).norm() <= 1e-4 * one.grad.norm() + 1e-5, name


@pytest.mark.slow
@pytest.mark.parametrize("name", BACKBONE_KINDS)
def test_a_compiled_backbone_trains_the_same(name: str) -> None:
    plugin, _, kind = name.partition(" ")
    check_compiled(lambda: built(factory(plugin, kind), "setr, naive"), name in GRIDS)


@pytest.mark.slow
@pytest.mark.parametrize("name", HEADS)
def test_a_compiled_head_trains_the_same(name: str) -> None:
    tokens = name.startswith(("eomt", "classifier of"))
    backbone = factory("vit", "sine") if tokens else lambda: Pyramid(HEADS[name].levels)
    check_compiled(lambda: built(backbone, name))
