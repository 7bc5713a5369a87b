"""Lays configs over one another: a file over its base, a section file into its place, the command line over all."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from densevit.config.reading import find_file, parse, read_file
from densevit.config.schema import BUDGETS, BackboneSection, DataSection, HeadSection
from densevit.errors import ConfigError

Key = tuple[str, ...]

COMMAND_LINE = "command line"
_ALTERNATIVES: dict[Key, tuple[tuple[str, ...], ...]] = {  # of which the last one given holds
    ("optim",): (("lr", "lr_per_256"), ("warmup", "warmup_steps")),
    ("trainer",): (BUDGETS,),
}
_SECTIONS = ("backbone", "heads", "data", "optim", "trainer", "inference")


@dataclass
class Layer:
    """Values as they are written, not yet checked."""

    values: dict[str, Any]
    sources: dict[Key, str] = field(default_factory=dict)
    whole: set[Key] = field(default_factory=set)  # sections taken whole from a file: nothing below shows through


def read(path: Path, above: tuple[Path, ...] = (), at: Key = ()) -> Layer:
    """A file laid over its base, with its section files in place.

    above: the files that led here. at: the section that the file holds; () where it is a whole config.
    """
    if path.resolve() in [file.resolve() for file in above]:
        chain = " → ".join(str(file) for file in (*above, path))
        raise ConfigError(f"{above[0]}: base goes in a circle: {chain}.")
    values = read_file(path)
    base = values.pop("base", None)
    for key in reversed(at):
        values = {key: values}
    layer = Layer(values, dict.fromkeys(_keys(values), str(path)))
    _fill_sections(layer, str(path), (*above, path), at)
    if base is None:
        return layer
    if not isinstance(base, str):
        raise ConfigError(f"{path}: base names one file, relative to this one, not {base!r}.")
    return over(read(find_file(base, f"{path}: base", path.parent), (*above, path), at), layer)


def with_overrides(layer: Layer, overrides: Sequence[str]) -> Layer:
    """The layer under the command line's `section=FILE` and `section.key=value`, whatever order they stand in."""
    sections, keys = Layer({}), Layer({})
    for override in overrides:
        name, equals, text = override.partition("=")
        path = tuple(name.strip().split("."))
        if not equals or not all(path):
            raise ConfigError(f"{COMMAND_LINE}: {override!r} is no override: write section.key=value.")
        if not text.strip():
            raise ConfigError(f"{COMMAND_LINE}: {name} has no value; write {name}=null for none.")
        # A path that begins with the placeholder of a split is text, though YAML takes it for a mapping.
        value = text.strip() if text.lstrip().startswith("{split}") else parse(text, f"{COMMAND_LINE}: {override}")
        _set((sections if _is_section(path) and isinstance(value, str) else keys).values, path, value, override)
    for part in (sections, keys):
        for key in _keys(part.values):
            if not (_is_mapping(part.values, key) and _is_mapping(layer.values, key)):
                part.sources[key] = COMMAND_LINE
        _fill_sections(part, COMMAND_LINE)
        layer = over(layer, part)
    return layer


def over(parent: Layer, child: Layer) -> Layer:
    """The child laid over the parent: its values win, key by key."""
    values = _merged(parent.values, child.values, (), child.whole)
    return Layer(values, parent.sources | child.sources, parent.whole | child.whole)


def _merged(parent: Mapping[str, Any], child: Mapping[str, Any], path: Key, whole: set[Key]) -> dict[str, Any]:
    reserved = _reserved(path)
    if reserved is not None and "name" in child and child["name"] != parent.get("name"):
        parent = {key: value for key, value in parent.items() if key in reserved}  # another plugin: options do not fit
    for alternatives in _ALTERNATIVES.get(path, ()):
        if any(child.get(key) is not None for key in alternatives):
            parent = {key: value for key, value in parent.items() if key not in alternatives}
    merged = dict(parent)
    for key, value in child.items():
        here = (*path, key)
        if value is None and path == ("heads",):
            merged.pop(key, None)  # a head set to null is a head taken away
        elif isinstance(value, Mapping) and here not in whole:
            below = merged.get(key)
            merged[key] = _merged(below if isinstance(below, Mapping) else {}, value, here, whole)
        else:
            merged[key] = value
    return merged


def _reserved(path: Key) -> set[str] | None:
    """The keys of a section that stay when its plugin changes; None where no plugin is named."""
    match path:
        case ("backbone",):
            return set(BackboneSection.model_fields)
        case ("data",):
            return set(DataSection.model_fields)
        case ("heads", _):
            return set(HeadSection.model_fields)
        case ("heads", _, "neck" | "evaluation"):
            return {"name"}
    return None


def _is_section(path: Key) -> bool:
    """Whether a file may be named in place of the keys here."""
    return (len(path) == 1 and path[0] in _SECTIONS) or (len(path) == 2 and path[0] == "heads")


def _fill_sections(layer: Layer, source: str, above: tuple[Path, ...] = (), at: Key = ()) -> None:
    """Puts the content of a file in the place of each section that names one; `at` itself is the file being read."""
    for path in [path for path in _keys(layer.values) if _is_section(path) and path != at]:
        *parents, key = path
        place = layer.values
        for parent in parents:
            place = place[parent]
        name = place[key]
        if not isinstance(name, str):
            continue
        try:
            file = find_file(name, source, section=path[0])
        except ConfigError as error:
            dotted = ".".join(path)
            raise ConfigError(f"{error} A plugin is named with `{dotted}.name`, not `{dotted}`.") from None
        section = read(file, above, path)
        inside: Any = section.values
        for parent in path:
            inside = inside[parent]
        place[key] = inside
        layer.sources |= section.sources
        layer.whole |= section.whole | {path}


def _set(values: dict[str, Any], path: Key, value: Any, override: str) -> None:
    for key in path[:-1]:
        values = values.setdefault(key, {})
        if not isinstance(values, dict):
            raise ConfigError(f"{COMMAND_LINE}: {override}: {key} is given a value of its own as well; keep one.")
    values[path[-1]] = value


def _keys(values: Mapping[str, Any], path: Key = ()) -> list[Key]:
    """All keys at all depths."""
    found = []
    for key, value in values.items():
        found += [(*path, key), *(_keys(value, (*path, key)) if isinstance(value, Mapping) else [])]
    return found


def _is_mapping(values: Any, path: Key) -> bool:
    for key in path:
        values = values.get(key) if isinstance(values, Mapping) else None
    return isinstance(values, Mapping)
