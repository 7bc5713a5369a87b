"""Checkpoints of trainings have objects of all kinds beside tensors, which are read without them."""

import argparse
import enum
import functools

import numpy as np
import pytest
import torch
from torch import nn

from densevit.weights.checkpoint_io import read
from densevit.weights.torch_checkpoint import Inert, load
from tests.weights.states import STATE, assert_state
from tests.weights.test_torch_checkpoint import both, save


class CfgNode(dict):
    """As in yacs, mmcv and easydict: a dict with attributes."""

    def __init__(self, content) -> None:
        super().__init__(content)
        self.__dict__["_immutable"] = True


class HistoryBuffer:
    """As in mmengine: arrays, and its own methods by name."""

    def __init__(self) -> None:
        self._log_history, self._count_history = np.arange(3.0), np.array([], dtype=np.int64)
        self._statistics_methods = {"mean": self.mean}

    def mean(self) -> float:
        return 0.0


class Phase(enum.Enum):
    train = 1


OBJECTS = {
    "namespace": lambda: argparse.Namespace(lr=1e-4, dataset="coco", nested=argparse.Namespace(a=[1])),
    "history buffer": lambda: {"loss": HistoryBuffer()},
    "numpy": lambda: [np.float64(0.5), np.bool_(True), np.random.rand(3, 4), np.zeros(2, dtype=[("a", "f4")])],
    "numpy states": lambda: [np.random.get_state(), np.random.default_rng(0)],
    "config": lambda: CfgNode({"MODEL": CfgNode({"NAME": "vit", "DEPTH": 12})}),
    "enum": lambda: Phase.train,
    "functions": lambda: {"f": save, "g": functools.partial(save, 1), "h": nn.functional.gelu},
    "sets": lambda: {"a": {1, 2}, "b": frozenset({3}), "c": slice(1, 2), "d": range(3), "e": 1j, "f": b"bytes"},
    "torch": lambda: [torch.__version__, torch.device("cpu"), torch.float16, torch.Size([1]), torch.get_rng_state()],
}


@pytest.mark.filterwarnings("error")
@both
def test_checkpoints_with_other_objects_are_read(legacy, tmp_path):
    for make in OBJECTS.values():
        content = {"epoch": 3, "extra": make(), "state_dict": STATE, "after": [make(), "text"]}
        assert_state(read(save(content, tmp_path / "weights.pth", legacy)).tensors)


def test_objects_are_empty_and_plain_values_preserved(tmp_path):
    content = {"args": argparse.Namespace(lr=1), "epoch": 3, "names": ["a", "b"], "config": CfgNode({"a": 1})}
    before = torch.serialization.get_safe_globals()
    found = load(save(content, tmp_path / "weights.pth"))
    assert set(torch.serialization.get_safe_globals()) == set(before)
    assert isinstance(found["args"], Inert) and vars(found["args"]) == {}
    assert not isinstance(found["args"], argparse.Namespace)
    assert (found["epoch"], found["names"]) == (3, ["a", "b"])
    assert isinstance(found["config"], Inert) and vars(found["config"]) == {} and dict(found["config"]) == {"a": 1}


@both
def test_tensors_of_all_kinds_are_read(legacy, tmp_path):
    state = {
        "parameter": nn.Parameter(torch.ones(2)),
        "half": torch.ones(2, dtype=torch.float16),
        "bfloat16": torch.ones(2, dtype=torch.bfloat16),
        "count": torch.tensor(7),
        "transposed": torch.arange(6).view(2, 3).T,
        "strided": torch.arange(10.0)[2::3],
        "empty": torch.empty(0, 3),
        "mask": torch.tensor([True, False]),
    }
    tensors = read(save(state, tmp_path / "weights.pth", legacy)).tensors
    for name, value in state.items():
        assert torch.equal(tensors[name], value.detach()) and tensors[name].dtype == value.dtype, name
        assert type(tensors[name]) is torch.Tensor and not tensors[name].requires_grad
