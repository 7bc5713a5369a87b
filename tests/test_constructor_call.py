"""The constructor's call of an instance: what is recorded, and what of it is written. Without torch, so that it runs
under every supported Python."""

import copy
import pickle
from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from densevit.constructor_call import Recorded, Unwritten, call, named_arguments, signature


@dataclass(frozen=True)
class Layers:
    width: int = 4
    kernel: tuple[int, int] = (3, 3)


class Part(Recorded):
    def __init__(self, width: int, sides: Any = (8, 16), *, act: Any = None, **further: Any) -> None:
        if isinstance(sides, list):
            sides.clear()  # as constructors do


class Inherited(Part):
    """Without a constructor: before Python 3.11.4, the signature of the class is that of `__new__`."""


class Level(IntEnum):
    HIGH = 3


class Passing(Part):
    def __init__(self, *args: Any, **further: Any) -> None:
        super().__init__(*args, **further)


class Sized(Recorded):
    def __init__(self, width: int, /, height: int = 2, *sizes: int, factor: float = 1.0) -> None:
        self.values = (width, height, sizes, factor)


class Plain(Recorded):
    """Without any constructor."""


CALLS: dict[str, tuple[Callable[[], Any], dict[str, Any]]] = {
    "by position": (lambda: Part(3, [1, 2]), {"width": 3, "sides": [1, 2]}),
    "by name": (lambda: Part(sides=(1, 2), width=3), {"width": 3, "sides": [1, 2]}),
    "further options": (lambda: Part(3, depth=2), {"width": 3, "depth": 2}),
    "a base's constructor": (lambda: Inherited(3, act="gelu"), {"width": 3, "act": "gelu"}),
    "no constructor": (Plain, {}),
    "a dataclass": (lambda: Part(3, act=Layers(8)), {"width": 3, "act": {"width": 8, "kernel": [3, 3]}}),
    "mappings and paths": (
        lambda: Part(3, act={"a": [None, Path("b")]}),
        {"width": 3, "act": {"a": [None, Path("b")]}},
    ),
    "a function": (lambda: Part(3, act=len), {"width": 3, "act": Unwritten("len")}),
    "further positions": (lambda: Sized(3, 4, 5, 6), {"width": 3, "height": 4, "sizes": [5, 6]}),
    "no further positions": (lambda: Sized(3, factor=0.5), {"width": 3, "factor": 0.5}),
    "arguments passed on": (lambda: Passing(3, 4, act=5), {"args": [3, 4], "act": 5}),
    "scalars of NumPy and enums": (
        lambda: Part(np.int64(3), [np.float32(0.5), np.bool_(True)], act={"level": Level.HIGH}),
        {"width": 3, "sides": [0.5, True], "act": {"level": 3}},
    ),
    "more digits than Python prints": (lambda: Part(3, act=10**5000), {"width": 3, "act": Unwritten("int")}),
    "an object in a list": (lambda: Part(3, act=[Plain()]), {"width": 3, "act": [Unwritten("Plain")]}),
}


@pytest.mark.parametrize("case", CALLS)
@pytest.mark.parametrize("copied", [lambda x: x, copy.copy, copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
def test_the_arguments_are_recorded_and_kept_by_copies(case, copied):
    construct, options = CALLS[case]
    part = construct()
    plugin, recorded = copied(part).constructor_call
    assert (plugin, recorded) == (type(part), options)
    assert [isinstance(value, Unwritten) for value in recorded.values()] == [
        isinstance(value, Unwritten) for value in options.values()
    ]


def test_a_changed_class_keeps_the_original_one():
    part = Inherited(3)
    part.__class__ = type("Sharded", (Inherited,), {})  # as FSDP2 does
    assert part.constructor_call == (Inherited, {"width": 3})
    with pytest.raises(TypeError, match="width"):
        Inherited()


def test_signatures_are_those_of_constructors():
    assert [*signature(Inherited).parameters] == ["width", "sides", "act", "further"]
    assert [*signature(Part.__init__).parameters] == ["self", "width", "sides", "act", "further"]
    assert [*signature(lambda step, steps: step).parameters] == ["step", "steps"]


@pytest.mark.parametrize("arguments", [(3,), (3, 4), (3, 4, 5, 6)])
@pytest.mark.parametrize("further", [{}, {"factor": 0.5}])
def test_a_call_by_names_is_the_recorded_call(arguments: tuple[int, ...], further: dict[str, float]):
    options = named_arguments(Sized, *arguments, **further)
    assert call(Sized, **options).values == Sized(*arguments, **further).values
    first = options.pop("width")
    assert call(Sized, first, **options).values == Sized(*arguments, **further).values
    assert call(Sized, 3, sizes=[7]).values == (3, 2, (7,), 1.0)  # with the default before them


def test_numbers_of_subclasses_are_recorded_as_plain_ones():
    sides = Part(Level.HIGH, [np.float64(0.5), np.str_("a"), np.int8(1)]).constructor_call[1]["sides"]
    assert [type(value) for value in sides] == [float, str, int]
    assert type(Part(Level.HIGH).constructor_call[1]["width"]) is int
