"""Compilation by regions: a step of every backbone and head computes the same, and is compiled once."""

import copy
import pickle
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import densevit
from densevit import registry
from densevit.interfaces import Backbone
from densevit.layers.drop_path import DropPath
from densevit.model import DenseModel
from densevit.model.compiling import regions
from tests.backbones.test_contract import factory
from tests.heads.cases import CASES as HEADS
from tests.heads.cases import CLASSES, batch_of, checked

SIZES = ((160, 192), (192, 192), (170, 161), (222, 164), (163, 219), (190, 201))


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
