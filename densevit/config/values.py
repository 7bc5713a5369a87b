"""Value types of config keys, and base classes of config sections."""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, NamedTuple, TypeVar, cast

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationInfo,
    WrapValidator,
    model_validator,
)

from densevit.config.frozen_mapping import frozen
from densevit.constructor_call import signature
from densevit.registry import ObjectName, object_section

_DURATION = re.compile(r"([1-9][0-9]*)(s|min|h)")


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


def rule(validator: Callable[..., Any], problem: Callable[[Any, Mapping[str, Any]], Any]) -> Any:
    """A validator that changes no value. validator: pydantic's, such as `BeforeValidator` or `field_validator(key)`.
    problem: a function of the value and of the valid keys above it in its section that returns the text of the error,
    or a false value."""

    def check(value: Any, info: ValidationInfo) -> Any:
        if text := problem(value, getattr(info, "data", {})):  # outside sections there are no keys
            raise ValueError(text)
        return value

    return validator(check)


def as_section(value: Any) -> Any:
    """Converts a plugin's name, an object, or a section that names one to a section: crop to {name: crop}."""
    section = value if isinstance(value, Mapping) else {"name": value}
    if isinstance(plugin := section.get("name"), int | float | list | tuple | Mapping | BaseModel | None):
        return value
    named = section if isinstance(plugin, str) else object_section(plugin)
    return {**named, **section, "name": named["name"]}


def seconds_of(duration: str) -> float:
    """The seconds in a valid duration: 300.0 for 5min."""
    number, unit = _DURATION.fullmatch(duration).groups()  # type: ignore[union-attr]
    return float(number) * {"s": 1, "min": 60, "h": 3600}[unit]


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
Duration = Annotated[
    str, rule(AfterValidator, lambda text, _: not _DURATION.fullmatch(text) and "a time such as 30s, 5min or 1h")
]
Names = Annotated[tuple[str, ...], BeforeValidator(as_tuple)]
Pair = Annotated[tuple[Float, Float], BeforeValidator(as_tuple)]
PerChannel = Annotated[
    Annotated[tuple[Annotated[Float, Field(ge=0, le=1)], ...], Field(min_length=1)] | None, BeforeValidator(as_tuple)
]
Patterns = Annotated[Names, BeforeValidator(lambda value: (value,) if isinstance(value, str) else value)]
Listed = rule(
    BeforeValidator,
    lambda value, _: (
        isinstance(value, str) and f"set true, false or a list of names, as in [stages.0.*], not {value!r}."
    ),
)
Frozen = Annotated[bool | Names, Listed]
FrozenDepths = Annotated[bool | Annotated[Int, Field(ge=0)] | Names, Listed]
Side = Annotated[Count, Field(le=2**16)]
Sides = Annotated[
    Side | Annotated[tuple[Side, Side], BeforeValidator(as_tuple)] | None,
    rule(
        BeforeValidator,
        lambda sides, _: (
            isinstance(sides, list | tuple)
            and len(sides) != 2
            and f"set one side or [height, width], in pixels, not {sides}."
        ),
    ),
]
Scales = Annotated[
    tuple[Factor, Factor],
    BeforeValidator(as_tuple),
    rule(AfterValidator, lambda scales, _: scales[0] > scales[1] and "the smallest and the largest, as in [0.5, 2.0]"),
]


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
    if inner:
        value = with_value(section[name] if isinstance(section, Mapping) else getattr(section, name), inner, value)
    changed = {**section, name: value} if isinstance(section, Mapping) else section.model_copy(update={name: value})
    return cast(Tree, changed)


Named = Annotated[
    PluginSection, rule(BeforeValidator, lambda value, _: not isinstance(value, dict | BaseModel) and "a module:Name")
]
NamedSection = Annotated[PluginSection, BeforeValidator(as_section)]
