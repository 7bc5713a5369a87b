"""The constructor calls of plugins, so that configs and model files can name an instance as `module:Class`."""

import functools
import inspect
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

_MOST_BITS = 2**13  # of an integer; Python converts at most 4,300 digits to text and back


class Unwritten(str):
    """The name of an argument that is no plain value, such as a function or a module, which files cannot hold."""


class Fields(dict[str, Any]):
    """The fields of a dataclass or a named tuple, or a mapping whose keys were no texts. Files hold a plain mapping,
    which the annotation of the parameter converts back."""


class PathText(str):
    """The text of a path, which the annotation of the parameter converts back."""


class Recorded:
    """Base class of plugins: records the class and the arguments of the constructor's call as `constructor_call`, a
    pair of the plugin, a class or a name, and its options by name, as in a config."""

    def __new__(cls, *args: Any, **kwargs: Any) -> Any:
        instance = super().__new__(cls)
        # Copies and unpickled instances are made without arguments, and then get the original's call. FSDP2 changes
        # an instance's class, and constructors change lists.
        with suppress(TypeError, ValueError, RecursionError):  # the constructor raises for the arguments
            vars(instance)["constructor_call"] = cls, plain(named_arguments(cls, *args, **kwargs))
        return instance


def named_arguments(function: Callable[..., Any], *args: Any, **kwargs: Any) -> dict[str, Any]:
    """The arguments of a call by name; those of `*args` as one tuple, by its name. Raises TypeError if the function
    does not take them."""
    call = signature(function).bind_partial(*args, **kwargs)
    further = [name for name, p in call.signature.parameters.items() if p.kind is p.VAR_KEYWORD]
    named = {key: value for key, value in call.arguments.items() if key not in further}
    return named | {key: value for name in further for key, value in call.arguments.get(name, {}).items()}


def call(function: Callable[..., Any], *args: Any, **options: Any) -> Any:
    """Calls a function with valid options by name, as `named_arguments` gives them."""
    parameters = signature(function).parameters.values() if options else ()
    further = [p.name for p in parameters if p.kind is p.VAR_POSITIONAL and p.name in options]
    last = inspect.Parameter.POSITIONAL_OR_KEYWORD if further else inspect.Parameter.POSITIONAL_ONLY
    by_position = [p for p in parameters if p.kind <= last]
    values = [options.pop(p.name, p.default) for p in by_position[len(args) :]]
    for name in further:
        values += options.pop(name)
    return function(*args, *values, **options)


def without_first(names: tuple[str, ...], function: Callable[..., Any], options: Mapping[str, Any]) -> dict[str, Any]:
    """The options of a call by name without its first arguments, which may be in `*args` or `**kwargs`. names: the
    first arguments, in their order."""
    parameters = signature(function).parameters.values()
    by_position = [p.name for p in parameters if p.kind <= p.POSITIONAL_OR_KEYWORD]
    further_names = names[len(by_position) :]
    left = {key: x for key, x in options.items() if key not in {*by_position[: len(names)], *further_names}}
    passed = sum(name not in options for name in further_names)
    for key in [p.name for p in parameters if p.kind is p.VAR_POSITIONAL and p.name in left]:
        further = left.pop(key)[passed:]
        left |= {key: further} if further else {}
    return left


def signature(function: Callable[..., Any]) -> inspect.Signature:
    """The parameters of a function, or of a class's constructor: those of `Recorded.__new__` do not count."""
    return inspect.signature(
        functools.partial(function.__init__, None) if isinstance(function, type) else function  # type: ignore[misc]
    )


def plain(value: Any, paths: type = Path) -> Any:
    """A copy of a value as a config has it: numbers, texts and None, in lists and mappings; others are `Unwritten`.
    Scalars of NumPy and enums of numbers and texts become plain ones. paths: the type of paths in the copy."""
    if (numpy := sys.modules.get("numpy")) and isinstance(value, numpy.generic):
        value = value.item()
    if is_dataclass(value) and not isinstance(value, type):
        return Fields({x.name: plain(getattr(value, x.name), paths) for x in fields(value) if x.init})
    if isinstance(value, tuple) and hasattr(value, "_asdict"):
        return Fields(plain(value._asdict(), paths))
    if isinstance(value, list | tuple):
        return [plain(item, paths) for item in value]
    if isinstance(value, Mapping):
        is_plain = not isinstance(value, Fields) and all(isinstance(key, str) for key in value)
        items = {str(plain(key)): plain(item, paths) for key, item in value.items()}
        return items if is_plain else Fields(items)
    if isinstance(value, Path):
        return paths(value)
    if isinstance(value, bool | Unwritten | None):
        return value
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, float):
        return float(value)
    if isinstance(value, int) and value.bit_length() <= _MOST_BITS:
        return int(value)
    return Unwritten(getattr(value, "__qualname__", type(value).__qualname__))
