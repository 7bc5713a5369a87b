"""Validates a plugin's options against the signature of its constructor."""

import difflib
import inspect
import math
import types
import typing
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import fields, is_dataclass
from typing import Any

from pydantic import ConfigDict, TypeAdapter, ValidationError

from densevit.constructor_call import Fields, PathText, Unwritten, signature
from densevit.errors import PluginError, nearest

# Keyword arguments that densevit passes to constructors that take them; not options of the user.
OPTIONAL_KEYWORDS: dict[str, tuple[str, ...]] = {
    "datasets": ("on_error", "channels"),
    "optimizers": ("lr", "weight_decay", "gradient_scaling"),
}

_MISSPELT = 0.8  # similarity of a key in **kwargs to a parameter
_LARGEST_INT = 2**63 - 1
_LARGEST_FLOAT = 3.4028234e38  # of float32


class OptionError(PluginError):
    """An invalid option. key: its full name, "backbone.varient". further: the plugin's other invalid options."""

    def __init__(self, key: str, message: str) -> None:
        super().__init__(f"{key} {message}")
        self.key = key
        self.further: list[OptionError] = []


def check(
    plugin: Callable[..., Any],
    positional: tuple[str, ...],
    name: str,
    options: Mapping[str, Any],
    where: str,
    reserved: Iterable[str] = (),
    offered: Collection[str] = (),
) -> dict[str, Any]:
    """Validates options and converts them to their annotated types.

    plugin: a class or a function. positional: parameters before the options. where: section that prefixes keys in
    messages. reserved: other keys of the section, for suggestions. offered: keyword arguments that are not options.
    A constructor with **kwargs accepts other keys too, except keys that resemble a parameter of its own or of the base
    classes' constructors.
    A dataclass annotation: a section of keys; a mapping becomes an instance, with the default's values for missing
    fields. `Annotated[..., Plugin]`: nested plugin options, validated against that plugin's constructor.
    Raises OptionError for unknown and missing keys, and values of the wrong type.
    """
    if getattr(name, "instance", None) is not None:
        return {}
    accepted, takes_all = accepted_options(plugin, positional, name, offered)
    parameters = parameters_of(plugin, positional, name, offered)[0]
    checked: dict[str, Any] = {}
    wrong: list[OptionError] = []
    for key, value in options.items():
        try:
            for unwritten in parts(value, Unwritten):
                raise OptionError(
                    f"{where}.{key}",
                    f"was an object, {unwritten}, which files cannot hold. Fix: pass the object again, as in "
                    "densevit.load(RUN, model=model) or densevit.fit(resume=RUN, train=..., val=...).",
                )
            if key in accepted:
                checked[key] = _checked(accepted[key], value, f"{where}.{key}", name, positional)
            elif takes_all and key not in offered and not difflib.get_close_matches(key, accepted, 1, _MISSPELT):
                checked[key] = value
            else:
                listed = f"Options: {', '.join(accepted)}." if accepted else "It has no options."
                hint = nearest(key, [*accepted, *reserved])
                if hint and not nearest(key, accepted):
                    listed += f" Other keys of {where}: {', '.join(reserved)}."
                raise OptionError(f"{where}.{key}", f"is not an option of {name!r}.{hint} {listed}")
            for converted in parts(checked[key], Fields | PathText):
                expected = "a text, not a path" if isinstance(converted, str) else "a mapping, not an object"
                raise OptionError(f"{where}.{key}", f"will be {expected}.")
        except OptionError as error:
            wrong += [error, *error.further]
    for key, parameter in parameters.items():
        if parameter.default is parameter.empty and key not in options:
            wrong.append(OptionError(f"{where}.{key}", f"is missing: {name!r} needs it."))
    if wrong:
        wrong[0].further = wrong[1:]
        raise wrong[0]
    return checked


def parts(value: Any, kinds: Any) -> Iterator[Any]:
    """The instances of some types in a nested value."""
    if isinstance(value, kinds):
        yield value
    for _, item in _items(value) or ():
        yield from parts(item, kinds)


def inner_types(annotation: Any) -> dict[str, Any] | None:
    """The annotations of the keys of an option that is a section of keys: a dataclass, or options of a nested plugin.
    None for other options."""
    section = next(iter(nested_plugins(annotation)), None) or _dataclass_of(annotation)
    return None if section is None else {key: x.annotation for key, x in parameters_of(section, (), "")[0].items()}


def takes(plugin: type, option: str) -> bool:
    """Whether the constructor has a parameter of this name."""
    return option in signature(plugin).parameters


def wanted(problems: Iterable[Mapping[str, Any]]) -> str:
    """The expected value according to pydantic's errors: "a valid integer or 'auto'"."""
    expectations = (
        problem["msg"]
        .removeprefix("Value error, ")
        .removeprefix("Input should be ")
        .replace("Field required", "a list with more values")  # in a tuple
        .partition(", unable to parse")[0]
        .partition(", got a number")[0]
        for problem in problems
    )
    return " or ".join(dict.fromkeys(expectations))


def shown(value: Any) -> str:
    """A value as text for messages."""
    text = {"True": "true", "False": "false", "None": "null"}.get(repr(value), repr(value))
    return text if len(text) <= 80 else f"{text[:77]}..."


def parameters_of(
    plugin: Callable[..., Any], positional: tuple[str, ...], name: str, offered: Collection[str] = ()
) -> tuple[dict[str, inspect.Parameter], bool]:
    """The constructor's parameters that are options, with resolved annotations, and whether the constructor takes
    **kwargs."""
    bases = plugin.__mro__ if isinstance(plugin, type) else ()
    if next((base for base in bases if "__init__" in vars(base)), object).__module__.startswith("torch.nn."):
        return {}, False  # nn.Module's constructor has no options
    parameters = list(signature(plugin).parameters.values())
    takes_all = any(p.kind is p.VAR_KEYWORD for p in parameters)
    by_position = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    if len(by_position) < len(positional) and not any(p.kind is p.VAR_POSITIONAL for p in parameters):
        what = "its constructor" if isinstance(plugin, type) else "it"
        raise PluginError(f"{name!r}: {what} must take {', '.join(positional)} first, by position.")
    passed = {*offered, *(p.name for p in by_position[: len(positional)])}
    try:
        function = plugin.__init__ if isinstance(plugin, type) else plugin  # type: ignore[misc]
        annotations = typing.get_type_hints(function, include_extras=True)
    except Exception:  # unresolved annotations are allowed
        annotations = {}
    options = {
        p.name: p.replace(annotation=annotations.get(p.name, Any))
        for p in parameters
        if p.name not in passed and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)
    }
    for p in parameters:
        if p.kind is p.VAR_POSITIONAL:  # `*sizes: int` is the option `sizes`, a list
            annotation = types.GenericAlias(tuple, (annotations.get(p.name, Any), ...))
            options[p.name] = inspect.Parameter(p.name, p.POSITIONAL_ONLY, default=(), annotation=annotation)
    return options, takes_all


def accepted_options(
    plugin: Callable[..., Any], positional: tuple[str, ...], name: str, offered: Collection[str]
) -> tuple[dict[str, inspect.Parameter], bool]:
    """`parameters_of`, with those that a constructor with **kwargs may pass on: of the base classes' constructors, up
    to the first without **kwargs."""
    parameters, takes_all = parameters_of(plugin, positional, name, offered)
    constructors = [base for base in getattr(plugin, "__mro__", ()) if "__init__" in vars(base)]
    for constructor in constructors[1:] if takes_all else ():
        inherited, passes_on = parameters_of(constructor, positional, name, offered)
        parameters = {key: p for key, p in inherited.items() if p.kind is not p.POSITIONAL_ONLY} | parameters
        if not passes_on:
            break
    return parameters, takes_all


def _checked(parameter: inspect.Parameter, value: Any, key: str, name: str, positional: tuple[str, ...]) -> Any:
    """The validated value of an option. key: its full name. name: the plugin's. positional: parameters before the
    options.
    """
    nested = nested_plugins(parameter.annotation)
    if nested and isinstance(value, Mapping):
        return check(nested[0], positional, name, value, key)
    section = _dataclass_of(parameter.annotation)
    if section is not None and not (value is None and parameter.annotation is not section):
        return _instance(section, parameter.default, value, key, name)
    coerced = _coerce(parameter.annotation, value, key)
    # Classes of one's own may take any number, as they do in Python.
    for path, problem in () if ":" in name else _wrong_numbers(coerced, (key,)):
        raise OptionError(".".join(path), problem)
    return coerced


def nested_plugins(annotation: Any) -> list[type]:
    """The plugin class in an annotation `Annotated[..., Plugin]`; empty for other annotations."""
    return [plugin for plugin in getattr(annotation, "__metadata__", ()) if isinstance(plugin, type)]


def _dataclass_of(annotation: Any) -> type | None:
    """The dataclass in the annotations `Dataclass` and `Dataclass | None`; None for other annotations."""
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        members = [kind for kind in typing.get_args(annotation) if kind is not types.NoneType]
        annotation = members[0] if len(members) == 1 else None
    return annotation if isinstance(annotation, type) and is_dataclass(annotation) else None


def _instance(section: type, default: Any, value: Any, key: str, name: str) -> Any:
    """An instance of the dataclass `section` with the fields of `value`, a mapping or an instance, over the
    default's."""
    fields_set = _fields(value) if isinstance(value, section) else value
    if not isinstance(fields_set, Mapping):
        keys = ", ".join(parameters_of(section, (), name)[0])
        raise OptionError(key, f"should be a section of keys, not {shown(value)}. Keys: {keys}.")
    checked = check(
        section, (), name, {**(_fields(default) if isinstance(default, section) else {}), **fields_set}, key
    )
    try:
        return section(**checked)
    except ValueError as error:
        raise OptionError(key, f"is invalid: {error}") from error


def _fields(instance: Any) -> dict[str, Any]:
    return {field.name: getattr(instance, field.name) for field in fields(instance) if field.init}


def _coerce(annotation: Any, value: Any, key: str) -> Any:
    """Converts a value to the annotated type if needed: a list to a tuple, "1e-4" to a float.

    Does not convert between booleans and numbers.
    """
    adapter = _adapter(annotation)
    if adapter is None:
        return value
    with suppress(ValidationError):
        return adapter.validate_python(value, strict=True)
    try:
        coerced = adapter.validate_python(value)
    except ValidationError as error:
        raise OptionError(key, f"should be {wanted(error.errors())}, not {shown(value)}.") from None
    if _count_booleans(coerced) != _count_booleans(value):
        expected = getattr(annotation, "__name__", str(annotation)) if isinstance(annotation, type) else str(annotation)
        raise OptionError(key, f"should be {expected}, not {shown(value)}.")
    return coerced


def _adapter(annotation: Any) -> TypeAdapter[Any] | None:
    """None: a type that pydantic cannot validate."""
    for config in (ConfigDict(arbitrary_types_allowed=True), None):  # pydantic models and dataclasses have a config
        with suppress(Exception):
            return TypeAdapter(annotation, config=config)
    return None


def _items(value: Any) -> Iterable[tuple[Any, Any]] | None:
    """The keys or indices of a nested value with its items; None for other values."""
    if isinstance(value, Mapping):
        return value.items()
    return enumerate(value) if isinstance(value, list | tuple | set | frozenset) else None


def _count_booleans(value: Any) -> int:
    """The number of booleans in a nested value."""
    items = _items(value)
    return int(isinstance(value, bool)) if items is None else sum(_count_booleans(item) for _, item in items)


def _wrong_numbers(value: Any, key: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], str]]:
    """Yields key and message of each invalid number in a nested value: "should be a finite number, not nan."

    Invalid are nan, infinity, integers beyond 64 bits, and floats beyond float32.
    """
    for name, item in _items(value) or ():
        yield from _wrong_numbers(item, (*key, str(name)))
    if isinstance(value, float) and not math.isfinite(value):
        yield key, f"should be a finite number, not {value}."
    elif isinstance(value, float) and abs(value) > _LARGEST_FLOAT:
        yield key, f"should be a number of at most {_LARGEST_FLOAT:g}, the largest of float32, not {value}."
    elif isinstance(value, int) and abs(value) > _LARGEST_INT:
        # Python refuses to print thousands of digits.
        digits = (
            str(value) if abs(value) < 10**40 else f"one of about {round(value.bit_length() * math.log10(2))} digits"
        )
        yield key, f"should be a whole number of at most {_LARGEST_INT}, not {digits}."
