"""What the interfaces do by themselves: required methods, and the results of defaults."""

import inspect
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from densevit import interfaces
from densevit.errors import ConfigError
from densevit.interfaces import (
    Backbone,
    Class,
    Head,
    ModuleBackbone,
    Neck,
    OptimizerStep,
)

ROAD = Class("road", 7, (1, 2, 3), thing=False)
KINDS = [kind for kind in vars(interfaces).values() if inspect.isclass(kind)]


@pytest.mark.parametrize(
    ("kind", "function"),
    [
        (kind, function)
        for kind in KINDS
        for function in vars(kind).values()
        if inspect.isfunction(function) and "NotImplementedError" in function.__code__.co_names
    ],
)
def test_an_error_of_a_required_method_names_the_class_and_the_method(kind: type, function: Any):
    arguments = len(inspect.signature(function).parameters) - 1
    with pytest.raises(NotImplementedError, match=rf"^Part .*{function.__name__}"):
        function(object.__new__(type("Part", (kind,), {})), *[None] * arguments)


class Parts(nn.Module):
    """A module of two features, as timm's, with a parameter, a child without parameters and a child with two."""

    feature_info = SimpleNamespace(channels=lambda: [4, 8], reduction=lambda: [2, 4])
    pretrained_cfg = SimpleNamespace(get={"mean": (0.5,), "std": (0.25,)}.get)

    def __init__(self, returned: Callable[[Any], Any] = list) -> None:
        super().__init__()
        self.scale, self.empty, self.stem, self.forward = (
            nn.Parameter(torch.ones(1)),
            nn.Identity(),
            nn.Linear(2, 2),
            returned,
        )


WRAPPED = ModuleBackbone(Parts())
BLOCKS = interfaces.LastBlocks(torch.arange(6).view(3, 2, 1), (1, 2), (), torch.neg)
STEP: Any = OptimizerStep.of({"targets": [{"image_id": "x"}, {}]}, {"targets": [{"image_id": 7}]})


@pytest.mark.parametrize(
    ("call", "expected"),
    [
        (lambda: (STEP.image_ids, [len(x) for x in STEP.targets]), (["x", 1, 7], [2, 1])),
        (lambda: (WRAPPED.channels, WRAPPED.strides, WRAPPED.mean, WRAPPED.std), ((4, 8), (2, 4), (0.5,), (0.25,))),
        (lambda: ModuleBackbone(Parts(), (1,), [9]).strides, (9,)),
        (lambda: [ModuleBackbone(Parts(f))(torch.ones(1)) for f in (list, lambda x: x, lambda x: {"a": x})], [[1]] * 3),
        (lambda: ModuleBackbone(nn.Identity(), (3,), (1,)).mean, interfaces.IMAGENET_MEAN),
        (lambda: [len(group) for group in Backbone.parameter_depths(Parts())], [1, 2]),
        (lambda: BLOCKS.single_image(1).tokens.tolist(), [[[2], [3]]]),
        (lambda: (Neck([4], [8]).channels, Neck([4], [8]).strides), ((4,), (8,))),
        (lambda: type("A", (Head,), {"task": "a"}).classes_from(SimpleNamespace(classes={"a": [ROAD]})), (ROAD,)),
        (lambda: type("A", (Head,), {"task": "a"}).classes_from(SimpleNamespace(classes={})), ()),
        (lambda: Head([], [], ["car"]).classes[0].name, "car"),
        (lambda: interfaces.TargetType().collate([1, None], (2, 2)), [1, None]),
    ],
)  # fmt: skip
def test_defaults(call: Callable[[], Any], expected: Any):
    assert call() == expected


def test_metres_need_data_with_a_unit():
    head = type("A", (Head,), {"depth_type": "depth"})([], [], [])
    with pytest.raises(ConfigError, match="learns metres, but the depth of the data set has no unit"):
        head.check(SimpleNamespace(metric=False))
