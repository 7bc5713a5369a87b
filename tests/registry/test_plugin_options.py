"""Options of plugins: conversion to the annotated types, and errors that name the option in full."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import pytest
from torch import nn

from densevit.constructor_call import Unwritten
from densevit.errors import PluginError
from densevit.registry.plugin_options import OptionError, check, inner_types, parameters_of, shown, takes, wanted


@dataclass(frozen=True)
class Norm:
    kind: Literal["layer", "batch"] = "layer"


@dataclass(frozen=True)
class Layers:
    width: int = 256
    rate: float = 0.1
    norm: Norm = Norm()

    def __post_init__(self) -> None:
        if self.width % 4:
            raise ValueError(f"width is {self.width}; it must be a multiple of 4.")


class Head:
    def __init__(self, channels, strides, classes, queries: int, *, depth: int = 2) -> None: ...


class Passing(Head):
    def __init__(self, channels, strides, classes, width: int = 8, **options: Any) -> None: ...


class Outer:
    def __init__(self, channels, strides, classes, head: Annotated[dict, Head]) -> None: ...


def net(width: int = 8, rate: float = 0.1, shape: tuple[int, int] = (1, 1), flag: bool = False, loose=None): ...


def sized(width: int, /, *sizes: int) -> None: ...


def layered(layers: Layers = Layers(rate=3.0), further: Layers | None = None) -> None: ...


def checked(plugin: Callable[..., Any], options: dict[str, Any]) -> dict[str, Any]:
    positional = ("channels", "strides", "classes") if isinstance(plugin, type) else ()
    return check(plugin, positional, plugin.__name__, options, "a.b", reserved=("neck",), offered=("seed",))


@pytest.mark.parametrize(
    ("plugin", "options", "expected"),
    [
        (net, {}, {}),
        (net, {"rate": "1e-4", "width": 16.0, "shape": [2, 3]}, {"rate": 1e-4, "width": 16, "shape": (2, 3)}),
        (net, {"flag": True, "loose": {"any": ["thing"]}}, {"flag": True, "loose": {"any": ["thing"]}}),
        (layered, {"layers": {"width": 16.0}}, {"layers": Layers(16, 3.0)}),  # over the option's default
        (layered, {"layers": {"norm": {"kind": "batch"}}}, {"layers": Layers(256, 3.0, Norm("batch"))}),
        (layered, {"layers": Layers(8), "further": None}, {"layers": Layers(8), "further": None}),
        (layered, {"further": {"rate": "1e-4"}}, {"further": Layers(256, 1e-4)}),
        (Head, {"queries": 3}, {"queries": 3}),
        (sized, {"width": "3", "sizes": [1, 2.0]}, {"width": 3, "sizes": (1, 2)}),
        (Passing, {"queries": "3", "other": 1}, {"queries": 3, "other": 1}),  # queries is the base class's
        (Outer, {"head": {"queries": 3.0}}, {"head": {"queries": 3}}),
    ],
)  # fmt: skip
def test_options_are_converted_to_the_annotated_types(plugin: Any, options: dict[str, Any], expected: dict[str, Any]):
    assert repr(checked(plugin, options)) == repr(expected)  # also the types of numbers


@pytest.mark.parametrize(
    ("plugin", "options", "messages"),
    [
        (net, {"widht": 3}, ["widht is not an option of 'net'. Did you mean 'width'? Options: width, rate, shape, "]),
        (net, {"width": "tiny"}, ["width should be a valid integer, not 'tiny'."]),
        (net, {"width": True, "flag": 1}, ["width should be int, not true.", "flag should be bool, not 1."]),
        (net, {"shape": [1, "x"]}, ["shape should be a valid integer, not [1, 'x']."]),
        (net, {"shape": [1]}, ["shape should be a list with more values, not [1]."]),
        (net, {"rate": float("nan")}, ["rate should be a finite number, not nan."]),
        (net, {"rate": 1e39}, ["rate should be a number of at most 3.40282e+38, the largest of float32, not 1e+39."]),
        (net, {"shape": [1, 2**63]}, [f"shape.1 should be a whole number of at most {2**63 - 1}, not {2**63}."]),
        (net, {"loose": {"x": 10**5000}}, [f"loose.x should be a whole number of at most {2**63 - 1}, not one of a"]),
        (net, {"loose": Unwritten("Plain")}, ["loose was an object, Plain, which files cannot hold. Fix: pass the"]),
        (net, {"loose": [1, {"x": Unwritten("Plain")}]}, ["loose was an object, Plain, which files cannot hold."]),
        (sized, {"sizes": [1, "x"]}, ["sizes should be a valid integer, not [1, 'x'].", "width is missing: 'sized'"]),
        (net, {"nekc": 1}, ["nekc is not an option of 'net'. Did you mean 'neck'? Options: width, "]),
        (layered, {"layers": {"widht": 3}}, ["layers.widht is not an option of 'layered'. Did you mean 'width'?"]),
        (layered, {"layers": {"norm": {"kind": 1}}}, ["layers.norm.kind should be 'layer' or 'batch', not 1."]),
        (layered, {"layers": 3}, ["layers should be a section of keys, not 3. Keys: width, rate, norm."]),
        (layered, {"layers": {"width": 5}}, ["layers is invalid: width is 5; it must be a multiple of 4."]),
        (Head, {}, ["queries is missing: 'Head' needs it."]),
        (Head, {"classes": 3, "queries": 1}, ["classes is not an option of 'Head'. Options: queries, depth."]),
        (Passing, {"widht": 1, "seed": 2}, ["widht is not an option of 'Passing'. Did you mean 'w", "seed is not"]),
        (Outer, {"head": {"depth": "x"}}, ["head.depth should be a valid integer, not 'x'.", "head.queries is mis"]),
        (nn.Identity, {"x": 1}, ["x is not an option of 'Identity'. It has no options."]),
    ],
)  # fmt: skip
def test_wrong_options_are_all_named(plugin: Any, options: dict[str, Any], messages: list[str]):
    with pytest.raises(OptionError) as caught:
        checked(plugin, options)
    errors = zip((caught.value, *caught.value.further), messages, strict=True)
    assert [str(error)[: 4 + len(message)] for error, message in errors] == [f"a.b.{message}" for message in messages]


def test_classes_of_one_s_own_take_any_number():
    options = {"rate": float("inf"), "loose": [float("-inf"), 10**30, 1e39]}
    assert check(net, (), "my_parts:net", options, "a.b") == options


@pytest.mark.parametrize(
    ("call", "expected"),
    [
        (lambda: (takes(Head, "queries"), takes(Head, "width"), takes(Passing, "queries")), (True, False, False)),
        (lambda: inner_types(Layers | None), {"width": int, "rate": float, "norm": Norm}),
        (
            lambda: list(inner_types(Annotated[dict, Head]) or ()),
            ["channels", "strides", "classes", "queries", "depth"],
        ),
        (lambda: (inner_types(int), inner_types(Layers | int)), (None, None)),
        (lambda: [shown(value) for value in (True, None, "a")], ["true", "null", "'a'"]),
        (lambda: shown("b" * 90), "'" + "b" * 76 + "..."),
        (
            lambda: wanted([{"msg": "Input should be a number, got a number with"}, {"msg": "Value error, b"}]),
            "a number or b",
        ),
    ],
)
def test_facts_of_options(call: Callable[[], Any], expected: Any):
    assert call() == expected


def test_a_constructor_takes_the_positional_arguments():
    with pytest.raises(PluginError, match="'net': it must take a, b, c, d, e, f first, by position"):
        parameters_of(net, tuple("abcdef"), "net")
