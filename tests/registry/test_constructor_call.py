"""The constructor's call of an instance: what is recorded, and what of it is written. Without torch, so that it runs
under every supported Python."""

import copy
import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from densevit.constructor_call import Recorded, Unwritten, signature


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


class Plain(Recorded):
    """Without any constructor."""


CALLS = {
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
