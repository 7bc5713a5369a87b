"""Config layers: values of a file, a mapping or overrides, and the rules by which a layer is merged over a lower one.

| the upper layer has | and the lower layer |
|---|---|
| a section, `heads`, `data.sets` | is updated key by key |
| another mapping, a list, a value | loses its value of the key |
| `section.key=value` | keeps the other keys, also of a mapping that is a value |
| a section that names a file | loses its section; a backbone without weights keeps the lower `backbone.weights` |
| another `name` | loses the options of its plugin, also `data.train` and `data.val`, and keeps other keys |
| `null` in `heads`, `data.sets` | loses the entry |
| one of two alternatives, such as `lr` and `lr_per_256` | loses the other |
| `weights` | loses weights of parts, with a note |
| weights of a part, another backbone | must not have `weights` |
| another backbone | must not have `backbone.weights` |

The last three rules are in `initial_weights`, for all layers merged: a key that an upper layer sets to null is no
error. Two keys of one layer must not set weights of the same tensors.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from densevit.config.key_types import merges, parts, section_type, type_in
from densevit.config.training_schema import BUDGETS, EVALUATIONS
from densevit.config.values import BY_NAME, OpenSection, as_section

Key = tuple[str, ...]
Overrides = Sequence[str] | Mapping[str, Any]
"""Texts `section.key=value`, or values by key. `fit` has pairs of a key and a value among the texts."""

WEIGHTS: Key = ("weights",)
BACKBONE: Key = ("backbone", "name")
BACKBONE_WEIGHTS: Key = ("backbone", "weights")
PRETRAINED: Key = ("backbone", "pretrained")

ALTERNATIVES: dict[Key, tuple[tuple[str, ...], ...]] = {
    ("optim",): (("lr", "lr_per_256"), ("warmup", "warmup_steps")),
    ("trainer",): (BUDGETS, EVALUATIONS),
    ("backbone",): (("weights", "pretrained"),),
    ("method", "teacher"): (("weights", "pretrained"),),
}
NAMED = (
    ("method",),
    ("data", "transforms"),
    ("data", "final_phase", "transforms"),
)  # sections that may be a name alone

PLUGIN_KEYS: dict[Key, tuple[str, ...]] = {("data",): ("train", "val")}  # fixed keys that another `name` loses too


class SingleKeys(dict[str, Any]):
    """Single keys of a mapping; its other keys are not overridden."""


@dataclass
class ConfigLayer:
    """Unvalidated values, each with its origin. Only values are compared: configs of different files can be equal.

    values: empty for the layer of a config, which holds them. source: the file, the Python function, "command line" or
    "overrides". origins: the level and the source of each key; of two keys, the upper layer's has the higher level.
    replaces: sections from files, and `backbone.name` if it is another backbone of the same plugin. notes: a line for
    each key that gives way.
    """

    values: dict[str, Any]
    source: str = field(default="", compare=False)
    origins: dict[Key, tuple[int, str]] = field(default_factory=dict, compare=False)
    replaces: set[Key] = field(default_factory=set, compare=False)
    notes: tuple[str, ...] = field(default=(), compare=False)

    def __post_init__(self) -> None:
        self.origins = self.origins or dict.fromkeys(keys(self.values), (0, self.source))

    def source_of(self, key: Key) -> str:
        """The source of a key, or of the nearest section above it; empty for a config created in Python."""
        while key and key not in self.origins:
            key = key[:-1]
        return self.origins.get(key, (0, self.source))[1]

    def is_above(self, key: Key, other: Key) -> bool:
        """Whether the layer that sets `key` is above the layer that sets `other`, or none sets it."""
        level, other_level = (self.origins.get(name, (-1, ""))[0] for name in (key, other))
        return level > other_level

    def put_below(self, lower: "ConfigLayer", key: Key) -> None:
        """Takes over the origins of a layer whose value of a key replaces this layer's, such as a file's name."""
        del self.origins[key]
        self.origins = lower.origins | _raised(self.origins, lower)
        self.replaces |= lower.replaces | {key}

    def over(self, lower: "ConfigLayer", schema: Any) -> "ConfigLayer":
        """This layer merged over a lower one. schema: the type of the values, a `Config`."""
        values, origins = _merged(lower.values, self.values, (), self.replaces, schema), dict(lower.origins)
        for key, origin in _raised(self.origins, lower).items():
            value = at(self.values, key)
            is_merged = isinstance(value, Mapping) and at(values, key) is not value
            is_equal = key == BACKBONE and value == at(lower.values, key) and not {key, key[:1]} & self.replaces
            if key not in origins or not (is_merged or is_equal):
                origins[key] = origin
        loads = any(at(self.values, key) for key in (BACKBONE_WEIGHTS, PRETRAINED))
        if BACKBONE[:1] in self.replaces and not loads and (weights := at(lower.values, BACKBONE_WEIGHTS)):
            values["backbone"] = {**values["backbone"], "weights": weights}
        return ConfigLayer(values, lower.source, origins, notes=lower.notes)


def _raised(origins: Mapping[Key, tuple[int, str]], lower: ConfigLayer) -> dict[Key, tuple[int, str]]:
    """The origins at levels above all of a layer's."""
    top = 1 + max((level for level, _ in lower.origins.values()), default=-1)
    return {key: (top + level, source) for key, (level, source) in origins.items()}


def keys(values: Mapping[str, Any], path: Key = ()) -> list[Key]:
    """All keys at all levels."""
    return [
        inner
        for key, value in values.items()
        for inner in ((*path, key), *(keys(value, (*path, key)) if isinstance(value, Mapping) else ()))
    ]


def at(values: Any, path: Key) -> Any:
    """The value of a key; None if it or a section above it is missing."""
    for key in path:
        values = values.get(key) if isinstance(values, Mapping) else None
    return values


def _merged(
    lower: Mapping[str, Any], upper: Mapping[str, Any], path: Key, replaces: set[Key], annotation: Any
) -> dict[str, Any]:
    """The lower mapping updated with the upper. path: their key. annotation: their type in the schema."""
    section = section_type(annotation)
    is_other = "name" in upper and (upper["name"] != lower.get("name") or (*path, "name") in replaces)
    if section is not None and issubclass(section, OpenSection) and is_other:
        fields = section.model_fields.keys() - {*PLUGIN_KEYS.get(path, ())}
        lower = {key: lower[key] for key in lower if key in fields}  # not the other plugin's options
    for alternatives in ALTERNATIVES.get(path, ()):
        if any(upper.get(key) is not None and upper[key] is not False for key in alternatives):
            lower = {key: value for key, value in lower.items() if key not in alternatives}
    merged = dict(lower)
    for key, value in upper.items():
        here = (*path, key)
        below, value = (as_section(item) if here in NAMED else item for item in (merged.get(key), value))
        siblings = {**lower, **upper} if isinstance(below, Mapping) else {}  # else the type of an option is not needed
        inner = type_in(annotation, key, siblings) if isinstance(value, Mapping) else Any
        if value is None and BY_NAME in parts(annotation):
            merged.pop(key, None)  # null removes an entry
        elif isinstance(value, SingleKeys) or (isinstance(value, Mapping) and merges(inner) and here not in replaces):
            merged[key] = _merged(below if isinstance(below, Mapping) else {}, value, here, replaces, inner)
        else:
            merged[key] = value
    return merged
