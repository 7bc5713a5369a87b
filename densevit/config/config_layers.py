"""Merges config layers: a file over its base, then section files, then command-line overrides."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from densevit import registry
from densevit.config.key_types import merges, parts, section_type, type_in
from densevit.config.schema import Config
from densevit.config.sources import BACKBONE, BACKBONE_WEIGHTS, PRETRAINED, Key, Overrides, names_weights
from densevit.config.training_schema import BUDGETS
from densevit.config.values import BY_NAME, OpenSection, as_section
from densevit.config.yaml_io import find_file, parse, read_file
from densevit.errors import Argument, ConfigError, PluginError
from densevit.paths import user_path

COMMAND_LINE = "command line"
_ALTERNATIVES: dict[Key, tuple[tuple[str, ...], ...]] = {  # the last one set wins
    ("optim",): (("lr", "lr_per_256"), ("warmup", "warmup_steps")),
    ("trainer",): (BUDGETS,),
    ("backbone",): (("weights", "pretrained"),),
    ("method", "teacher"): (("weights", "pretrained"),),
}
_NAMED = (("data", "transforms"), ("data", "final_phase", "transforms"))  # sections that may be a name alone
_SECTIONS = ("backbone", "heads", "data", "optim", "trainer", "inference")


class _Keys(dict[str, Any]):
    """Single keys of a mapping; its other keys are not overridden."""


@dataclass
class Layer:
    """Unvalidated values of a config.

    sources: the source of each key. replaced: sections from a section file, which replace lower layers' sections
    instead of being merged. typed: the parameter of `Sources`.
    """

    values: dict[str, Any]
    sources: dict[Key, str] = field(default_factory=dict)
    replaced: set[Key] = field(default_factory=set)
    typed: frozenset[Key] = frozenset()


def read(path: Path, above: tuple[Path, ...] = (), at: Key = (), typed: bool = False) -> Layer:
    """Reads a file, merges it over its base and reads its section files.

    above: the files that refer to this file. at: the section in the file; () for a complete config. typed: whether the
    file's keys are typed; keys of its base and section files are not.
    """
    if path.resolve() in [file.resolve() for file in above]:
        chain = " → ".join(str(file) for file in (*above, path))
        raise ConfigError(f"{above[0]}: base is circular: {chain}.")
    return _over_base(read_file(path), str(path), (*above, path), at, typed)


def from_mapping(values: Mapping[str, Any], source: str) -> Layer:
    """Merges a mapping over its base and reads its section files; paths are relative to the working directory."""
    return _over_base(_copied(values), source, typed=True)


def _copied(values: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of nested mappings, with the same objects in them."""
    return {key: _copied(value) if isinstance(value, Mapping) else value for key, value in values.items()}


def _over_base(
    values: dict[str, Any], source: str, above: tuple[Path, ...] = (), at: Key = (), typed: bool = False
) -> Layer:
    """The layer of values over their base, whose path is relative to the last of the files `above`. Other parameters as
    of `read`."""
    base = values.pop("base", None)
    for key in reversed(at):
        values = {key: values}
    layer = Layer(values, dict.fromkeys(_keys(values), source), typed=typed_keys(values) if typed else frozenset())
    fill_sections(layer, source, above, at)
    if base is None:
        return layer
    if not isinstance(base, str | Path):
        raise ConfigError(f"{source}: base must be one file or a shipped config's name, not {base!r}.")
    folder = above[-1].parent if above else None
    return over(read(find_file(str(base), f"{source}: base", folder), above, at), layer)


def with_overrides(layer: Layer, overrides: Overrides) -> Layer:
    """Applies `section=FILE` and `section.key=value`, or a mapping of keys to values, files first."""
    source = COMMAND_LINE if any(isinstance(override, Argument) for override in overrides) else "overrides"
    sections, keys = Layer(_Keys()), Layer(_Keys())
    for override in overrides.items() if isinstance(overrides, Mapping) else overrides:
        name, equals, text = (override[0], "=", "") if isinstance(override, tuple) else override.partition("=")
        path = tuple(name.strip().split("."))
        if not equals or not all(path):
            raise ConfigError(f"{name + (text and equals + text)!r} is not an override: write section.key=value.")
        if not (isinstance(override, tuple) or text.strip()):
            raise ConfigError(f"{source}: {name} has no value; write {name}=null for none.")
        # A path that starts with the placeholder {split} is text, not a YAML mapping.
        value = text.strip() if text.lstrip().startswith("{split}") else parse(text, f"{source}: {override}")
        value = override[1] if isinstance(override, tuple) else value
        if path in _NAMED and isinstance(value, str):
            path = (*path, "name")
        _set(
            (sections if _is_section(path) and isinstance(value, str) else keys).values,
            path,
            value,
            f"{source}: {override if isinstance(override, str) else name}",
        )
    keys.typed = typed_keys(sections.values) | typed_keys(keys.values)
    for part in (sections, keys):
        for key in _keys(part.values):
            if not all(isinstance(_at(side.values, key), Mapping) for side in (part, layer)):
                part.sources[key] = source
        fill_sections(part, source)
        layer = over(layer, part)
    return layer


def check_evaluation_overrides(overrides: Overrides) -> None:
    """Raises ConfigError for overrides that would change the model."""
    for override in overrides:
        section, *keys = override.split("=")[0].split(".")
        head_key = keys[1] if keys[1:] else ""
        if section in ("backbone", "weights", "optim") or (
            section == "heads" and head_key not in ("evaluation", "inference")
        ):
            raise ConfigError(
                f"{override}: the model exists, and cannot change. Allowed overrides are data.*, trainer.*, "
                "inference.*, heads.NAME.inference.* and heads.NAME.evaluation.*"
            )


def over(parent: Layer, child: Layer) -> Layer:
    """The parent updated with the child, key by key. If the child has no typed keys, the parent's count; a backbone
    name equal to the parent's is not typed. A backbone section file without weights keeps the parent's weights,
    although they do not fit it."""
    values, sources = _merged(parent.values, child.values, (), child.replaced), parent.sources | child.sources
    weights = _at(parent.values, BACKBONE_WEIGHTS)
    loads = any(_at(child.values, key) for key in (BACKBONE_WEIGHTS, PRETRAINED))
    if BACKBONE[:1] in child.replaced and weights and not loads:
        values = {**values, "backbone": {**values["backbone"], "weights": weights}}
    typed = child.typed
    if not {BACKBONE[:1], BACKBONE} & child.replaced and _at(child.values, BACKBONE) == _at(parent.values, BACKBONE):
        typed -= {BACKBONE}
    return Layer(values, sources, parent.replaced | child.replaced, typed or parent.typed)


def _merged(
    parent: Mapping[str, Any], child: Mapping[str, Any], path: Key, replaced: set[Key], annotation: Any = Config
) -> dict[str, Any]:
    """The parent updated with the child. annotation: the type of both in the schema."""
    section = section_type(annotation)
    is_open = section is not None and issubclass(section, OpenSection)
    if (
        section is not None
        and is_open
        and "name" in child
        and (child["name"] != parent.get("name") or (*path, "name") in replaced)
    ):
        parent = {key: parent[key] for key in parent if key in section.model_fields}  # not the other plugin's options
    for alternatives in _ALTERNATIVES.get(path, ()):
        if any(child.get(key) is not None and child[key] is not False for key in alternatives):
            parent = {key: value for key, value in parent.items() if key not in alternatives}
    merged = dict(parent)
    removes = BY_NAME in parts(annotation)
    for key, value in child.items():
        here = (*path, key)
        below, value = (as_section(section) if here in _NAMED else section for section in (merged.get(key), value))
        siblings = {**parent, **child} if isinstance(below, Mapping) else {}  # else the type of an option is not needed
        inner = type_in(annotation, key, siblings) if isinstance(value, Mapping) else Any
        if value is None and removes:
            merged.pop(key, None)  # null removes an entry
        elif isinstance(value, _Keys) or (isinstance(value, Mapping) and merges(inner) and here not in replaced):
            merged[key] = _merged(below if isinstance(below, Mapping) else {}, value, here, replaced, inner)
        else:
            merged[key] = value
    return merged


def _is_section(path: Key) -> bool:
    """Whether a section file is allowed here."""
    return (len(path) == 1 and path[0] in _SECTIONS) or (len(path) == 2 and path[0] == "heads")


def fill_sections(layer: Layer, source: str, above: tuple[Path, ...] = (), at: Key = ()) -> None:
    """Replaces each section that is a file name by the file's content, except `at`, the section being read; and a
    backbone's name of published weights by its section."""
    for path in [path for path in _keys(layer.values) if _is_section(path) and path != at]:
        name = _at(layer.values, path)
        if not isinstance(name, str):
            continue
        root = _data_root(name) if path == ("data",) else None
        try:
            file = find_file(name if root is None else "folder", source, section=".".join(path))
        except ConfigError as no_file:
            section = Layer({"backbone": {"name": name}})
            if path != BACKBONE[:1] or Path(name).suffix == ".yaml":
                raise
            if not (_name_weights(section, source) or ":" in name or name in registry.find("backbones")):
                try:
                    registry.load("backbones", name)
                except PluginError as no_plugin:
                    raise ConfigError(f"{no_file} {no_plugin}") from no_plugin
        else:
            section = read(file, above, path)
        if root is not None:
            section = over(section, Layer({"data": {"root": root}}, {("data", "root"): source}))
        _at(layer.values, path[:-1])[path[-1]] = _at(section.values, path)
        layer.sources |= section.sources
        layer.replaced |= section.replaced | {path}
    _name_weights(layer, source)


def _name_weights(layer: Layer, source: str) -> bool:
    """Replaces a backbone's name that means published weights, as of timm, by the section that it means
    (`Source.backbone`), under the section's other keys. Returns whether it is such a name; a plugin's name is not."""
    name, section = _at(layer.values, BACKBONE), layer.values.get("backbone", {})
    plugins = registry.load_all("sources") if type(name) is str and name not in registry.find("backbones") else ()
    meant = next(filter(None, (plugin().backbone(name) for plugin in plugins)), None)
    if meant is not None:
        layer.values["backbone"] = section = _merged(
            meant, {**section, "name": meant["name"]}, BACKBONE[:1], set(), type_in(Config, "backbone", {})
        )
        layer.sources |= dict.fromkeys([("backbone", key) for key in section], source)
        layer.replaced.add(BACKBONE)  # another backbone, also if it is of the same plugin
    return meant is not None


def _data_root(name: str) -> str | None:
    """The root of a data set that `name` is: a folder, or YOLO's data.yaml; None for a data section."""
    try:
        file = find_file(name, section="data")
    except ConfigError:
        return name if user_path(name).is_dir() else None
    keys = re.findall(rb"^(name|names|train|val|data)\s*:", file.read_bytes(), re.MULTILINE)
    if b"data" in keys and user_path(name).is_dir():  # the file is the folder's recipe
        return name
    return str(file) if b"names" in keys and b"name" not in keys and len(keys) > 1 else None


def _set(values: dict[str, Any], path: Key, value: Any, override: str) -> None:
    for key in path[:-1]:
        values = values.setdefault(key, type(values)())
        if not isinstance(values, dict):
            raise ConfigError(
                f"{override} sets a key of {key}, but another argument sets {key} itself to a value. "
                "Fix: remove one of the two arguments."
            )
    values[path[-1]] = value


def _keys(values: Mapping[str, Any], path: Key = ()) -> list[Key]:
    """All keys at all levels."""
    keys = []
    for key, value in values.items():
        keys += [(*path, key), *(_keys(value, (*path, key)) if isinstance(value, Mapping) else [])]
    return keys


def typed_keys(values: Mapping[str, Any]) -> frozenset[Key]:
    """The keys that choose initial weights. A section file for `backbone` counts as another backbone."""
    chosen = {BACKBONE} if isinstance(values.get("backbone"), str) else set()
    return frozenset(chosen | {key for key in _keys(values) if names_weights(key)})


def _at(values: Any, path: Key) -> Any:
    for key in path:
        values = values.get(key) if isinstance(values, Mapping) else None
    return values
