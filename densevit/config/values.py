"""Value types of config keys, and base classes of config sections."""

import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, NamedTuple, TypeVar, cast

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    WrapValidator,
    model_validator,
)

from densevit.config.frozen_mapping import frozen
from densevit.constructor_call import signature
from densevit.registry import ObjectName, object_section


def _number(value: Any) -> Any:
    """Converts a string to a number ("1e-4") if possible."""
    try:
        return float(value) if isinstance(value, str) else value
    except ValueError:
        return value


def _integral(value: Any) -> Any:
    """Converts 1e4 to 10000."""
    value = _number(value)
    return int(value) if isinstance(value, float) and value.is_integer() else value


def as_tuple(value: Any) -> Any:
    """Converts a list to a tuple; leaves other values unchanged."""
    return tuple(value) if isinstance(value, list) else value


def module_section(value: Any) -> Any:
    """Converts module:Name to {name: module:Name}, for a union of built-in names and sections."""
    return {"name": value} if isinstance(value, str) and ":" in value else value


def _is_section(value: Any) -> Any:
    if not isinstance(value, dict | BaseModel):
        raise ValueError("a module:Name")
    return value


def as_section(value: Any) -> Any:
    """Converts a plugin's name, an object, or a section that names one to a section: crop to {name: crop}."""
    section = value if isinstance(value, Mapping) else {"name": value}
    if isinstance(plugin := section.get("name"), int | float | list | tuple | Mapping | BaseModel | None):
        return value
    named = section if isinstance(plugin, str) else object_section(plugin)
    return {**named, **section, "name": named["name"]}


def _size(value: Any) -> Any:
    if isinstance(value, list | tuple) and len(value) != 2:
        raise ValueError(f"set one side or [height, width], in pixels, not {value}.")
    return as_tuple(value)


def _patterns(value: Any) -> Any:
    return (value,) if isinstance(value, str) else as_tuple(value)


def _names(value: Any) -> Any:
    if isinstance(value, str):
        raise ValueError(f"set true, false or a list of names, as in [stages.0.*], not {value!r}.")
    return as_tuple(value)


def above_zero(value: Any) -> Any:
    """Raises ValueError if one of the numbers is 0."""
    if value is not None and min(value) == 0:
        raise ValueError(f"pixels are divided by these numbers, so none may be 0: {[*value]}.")
    return value


def _duration(value: Any) -> Any:
    if isinstance(value, str) and not re.fullmatch(r"[1-9][0-9]*(s|min|h)", value):
        raise ValueError("a time such as 30s, 5min or 1h")  # pydantic appends it to the other types of a union
    return value


def seconds_of(duration: str) -> float:
    """The seconds in a valid duration: 300.0 for 5min."""
    number, unit = re.fullmatch(r"([0-9]+)(s|min|h)", duration).groups()  # type: ignore[union-attr]
    return float(number) * {"s": 1, "min": 60, "h": 3600}[unit]


def _ascending(scales: tuple[float, float]) -> tuple[float, float]:
    if scales[0] > scales[1]:
        raise ValueError("the smallest and the largest, as in [0.5, 2.0]")
    return scales


Int = Annotated[int, BeforeValidator(_integral), Field(ge=-(2**63), lt=2**63)]
Float = Annotated[float, BeforeValidator(_number), Field(allow_inf_nan=False)]
Count = Annotated[Int, Field(ge=1)]
Rate = Annotated[Float, Field(ge=0, le=1e6)]
Decay = Annotated[Float, Field(gt=0, lt=1)]
Factor = Annotated[Float, Field(gt=0)]


PLUGIN_NAME, SOURCE, BY_NAME = "a plugin's name", "a source of weights", "sections by name"
"""Metadata of types in the schema, as is the group of a section's plugin, "backbones". A mapping `BY_NAME` is merged
with the mapping that it overrides, and `null` removes an entry. Other mappings that are not sections are values."""


class ConfigType(NamedTuple):
    """Metadata of a plugin's option that takes plain values: `annotation` is its type in the config."""

    annotation: Any


PluginName = Annotated[
    str, PLUGIN_NAME, WrapValidator(lambda value, check: value if isinstance(value, ObjectName) else check(value))
]
Source = Annotated[str, SOURCE, Field(min_length=1)]
RANDOM = "random"  # the value of `backbone.weights` for random weights on purpose
Duration = Annotated[str, BeforeValidator(_duration)]
Fraction = Annotated[Float, Field(ge=0, le=1)]
Names = Annotated[tuple[str, ...], BeforeValidator(as_tuple)]
Pair = Annotated[tuple[Float, Float], BeforeValidator(as_tuple)]
PerChannel = Annotated[Annotated[tuple[Fraction, ...], Field(min_length=1)] | None, BeforeValidator(as_tuple)]
Patterns = Annotated[tuple[str, ...], BeforeValidator(_patterns)]
Frozen = Annotated[bool | tuple[str, ...], BeforeValidator(_names)]
FrozenDepths = Annotated[bool | Annotated[Int, Field(ge=0)] | tuple[str, ...], BeforeValidator(_names)]
Side = Annotated[Count, Field(le=2**16)]
Sides = Annotated[Side | tuple[Side, Side] | None, BeforeValidator(_size)]
Scales = Annotated[tuple[Factor, Factor], BeforeValidator(as_tuple), AfterValidator(_ascending)]


Copied = TypeVar("Copied", bound="Section")


class Section(BaseModel):
    """A section with fixed keys. It is immutable, with its mappings.

    Sections are merged key by key with the section that they override; a key whose type is a mapping is one value.
    """

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, protected_namespaces=())

    @model_validator(mode="after")
    def _freeze(self: Copied) -> Copied:
        for values in (self.__dict__, self.__pydantic_extra__ or {}):
            values.update({key: frozen(value) for key, value in values.items()})
        return self

    def model_copy(self: Copied, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Copied:
        """A copy with some values replaced, which are not validated."""
        return super().model_copy(update=frozen(update), deep=deep)


class OpenSection(Section):
    """A section with fixed keys and a plugin's options."""

    model_config = ConfigDict(extra="allow")

    @model_validator(mode="before")
    @classmethod
    def _from_object(cls, value: Any) -> Any:
        section: Any = value if isinstance(value, str) else as_section(value)
        instance = getattr(section.get("name"), "instance", None) if isinstance(section, Mapping) else None
        if instance is None:
            return section
        typed = {**value} if isinstance(value, Mapping) else {}
        _, options = getattr(instance, "constructor_call", (None, dict[str, Any]()))
        for key in (signature(type(instance)).parameters.keys() & typed) - cls.model_fields.keys():
            if typed[key] != options.get(key):
                raise ValueError(f"{key}: the {type(instance).__name__} is built already. Fix: leave it out.")
        return {key: x for key, x in section.items() if key in ("name", *typed) or key not in cls.model_fields}

    @property
    def model_extra(self) -> dict[str, Any] | None:
        """The keys that are not fields."""
        return frozen(self.__pydantic_extra__)

    @property
    def options(self) -> dict[str, Any]:
        """The plugin's options: keyword arguments of its constructor."""
        return dict(self.model_extra or {})


class PluginSection(OpenSection):
    """A plugin and its options."""

    name: PluginName
    """A plugin's name or `module:Class`."""


Tree = TypeVar("Tree")


def with_value(tree: Tree, key: Sequence[str], value: Any) -> Tree:
    """A copy of a section or mapping with one value replaced. key: path, as in ("heads", "depth", "weights")."""
    section: Any = tree
    name, *inner = key
    if isinstance(section, Mapping):
        return cast(Tree, {**section, name: with_value(section[name], inner, value) if inner else value})
    changed = with_value(getattr(section, name), inner, value) if inner else value
    return cast(Tree, section.model_copy(update={name: changed}))


Named = Annotated[PluginSection, BeforeValidator(_is_section)]
NamedSection = Annotated[PluginSection, BeforeValidator(as_section)]
