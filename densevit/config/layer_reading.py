"""Reads config layers: a file over its base, section files, and overrides."""

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from densevit import registry
from densevit.config.config_layers import BACKBONE, NAMED, ConfigLayer, Key, Overrides, SingleKeys, at, keys
from densevit.config.key_types import parts, type_in
from densevit.config.schema import Config
from densevit.config.values import BY_NAME, with_value
from densevit.config.yaml_io import find_file, parse, read_file
from densevit.deprecation import current_name
from densevit.errors import Argument, ConfigError, PluginError
from densevit.paths import user_path
from densevit.registry import PLUGIN_GROUPS

COMMAND_LINE = "command line"
_SECTIONS = ("backbone", "heads", "data", "optim", "trainer", "inference")


def read(path: Path, above: tuple[Path, ...] = (), section: Key = ()) -> ConfigLayer:
    """Reads a file, merges it over its base and reads its section files.

    above: the files that refer to this file. section: the key of the section in the file; () for a complete config.
    """
    if path.resolve() in [file.resolve() for file in above]:
        chain = " → ".join(str(file) for file in (*above, path))
        raise ConfigError(f"{above[0]}: base is circular: {chain}.")
    return over_base(read_file(path), str(path), (*above, path), section)


def layer_of(values: Mapping[str, Any], source: str) -> ConfigLayer:
    """The layer of values from a file, Python or overrides, with the new names of deprecated keys and plugins."""
    return ConfigLayer(_current(values, source, Config), source)


def _current(values: Mapping[str, Any], source: str, schema: Any, where: str = "") -> dict[str, Any]:
    """A copy of nested mappings, with the same objects in them, and with new names. schema: the type of the values.
    where: their key, "trainer."."""
    by_name, group = BY_NAME in parts(schema), next((part for part in parts(schema) if part in PLUGIN_GROUPS), "")
    copy: dict[str, Any] = SingleKeys() if isinstance(values, SingleKeys) else {}
    for key, value in values.items():
        name = key if by_name else current_name(where, key, source)
        if isinstance(value, Mapping):
            below = f"{where}{'*' if by_name else name}."
            copy[name] = _current(value, source, type_in(schema, name, {}), below)
        else:
            is_plugin = name == "name" and type(value) is str
            copy[name] = current_name(f"{group}:", value, source) if is_plugin else value
    return copy


def over_base(values: Mapping[str, Any], source: str, above: tuple[Path, ...] = (), section: Key = ()) -> ConfigLayer:
    """The layer of values over their base, with the content of section files. Paths are relative to the last of the
    files `above`, or to the working directory. Other parameters as of `read`."""
    base = values.get("base")
    values = {key: value for key, value in values.items() if key != "base"}
    for key in reversed(section):
        values = {key: values}
    layer = layer_of(values, source)
    if base is None:
        fill_sections(layer, above, section)
        return layer
    if not isinstance(base, str | Path):
        raise ConfigError(f"{source}: base must be one file or a shipped config's name, not {base!r}.")
    folder = above[-1].parent if above else None
    lower = read(find_file(str(base), f"{source}: base", folder), above, section)
    fill_sections(layer, above, section, lower.values)
    return replace(layer.over(lower, Config), source=source)


def with_overrides(layer: ConfigLayer, overrides: Overrides) -> ConfigLayer:
    """Applies `section=FILE` and `section.key=value`, or a mapping of keys to values, files first."""
    source = COMMAND_LINE if any(isinstance(override, Argument) for override in overrides) else "overrides"
    files, values = SingleKeys(), SingleKeys()
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
        if path in NAMED and isinstance(value, str):
            path = (*path, "name")
        shown = f"{source}: {override if isinstance(override, str) else name}"
        _set(files if _is_section(path) and isinstance(value, str) else values, path, value, shown)
    for upper in (layer_of(files, source), layer_of(values, source)):
        fill_sections(upper, lower=layer.values)
        layer = upper.over(layer, Config)
    return layer


def check_evaluation_overrides(overrides: Overrides) -> None:
    """Raises ConfigError for overrides that would change the model."""
    for override in overrides:
        section, _, head_key, *_ = (*override.split("=")[0].split("."), "", "")
        if section in ("backbone", "weights", "optim") or (
            section == "heads" and head_key not in ("evaluation", "inference")
        ):
            raise ConfigError(
                f"{override}: the model exists, and cannot change. Allowed overrides are data.*, trainer.*, "
                "inference.*, heads.NAME.inference.* and heads.NAME.evaluation.*"
            )


def _is_section(path: Key) -> bool:
    """Whether a section file is allowed here."""
    return (len(path) == 1 and path[0] in _SECTIONS) or (len(path) == 2 and path[0] == "heads")


def fill_sections(
    layer: ConfigLayer, above: tuple[Path, ...] = (), read_section: Key = (), lower: Mapping[str, Any] | None = None
) -> None:
    """Replaces each section that is a file name by the file's content, except the section that is being read; and a
    backbone's name of published weights by its section.

    lower: the values below the layer. A data set's folder as `data` is only the root if their `data.root` is ".", as in
    recipes for the user's images, or their data set reads folders of another kind than boxes, such as label maps;
    otherwise the section `data/folder` with this root.
    """
    names = {path: at(layer.values, path) for path in keys(layer.values) if _is_section(path) and path != read_section}
    for path, name in ((path, name) for path, name in names.items() if isinstance(name, str)):
        root = data_root(name) if path == ("data",) else None
        lower_root, kind = (at(lower, (*path, key)) for key in ("root", "name"))
        if root is not None and (lower_root == "." or (lower_root is not None and kind != "coco")):
            layer.values = with_value(layer.values, path, folder_options(root, at(lower, path)))
            continue
        try:
            file = find_file(name if root is None else "folder", layer.source, section=".".join(path))
        except ConfigError as no_file:
            content = layer_of({"backbone": {"name": name}}, layer.source)
            if path != BACKBONE[:1] or Path(name).suffix == ".yaml":
                raise
            if not (_name_weights(content) or ":" in name or name in registry.find("backbones")):
                try:
                    registry.load("backbones", name)
                except PluginError as no_plugin:
                    raise ConfigError(f"{no_file} {no_plugin}") from no_plugin
        else:
            content = read(file, above, path)
        if root is not None:
            content = ConfigLayer({"data": {"root": root}}, layer.source).over(content, Config)
        layer.values = with_value(layer.values, path, at(content.values, path))
        layer.put_below(content, path)
    _name_weights(layer)


def folder_options(root: str, data: Mapping[str, Any]) -> dict[str, Any]:
    """The keys of the section `data` that change for another folder: its root, and null for shares and limits of the
    former folder's images and for absolute paths."""
    left = [
        key
        for key, x in data.items()
        if key in ("val_share", "limit")
        or any(type(v) is str and user_path(v).is_absolute() for v in (x.values() if isinstance(x, Mapping) else [x]))
    ]
    return dict.fromkeys(left) | {"root": root}


def _name_weights(layer: ConfigLayer) -> bool:
    """Replaces a backbone's name that means published weights, as of timm, by the section that it means
    (`Source.backbone`), under the section's other keys. Returns whether it is such a name; a plugin's name is not."""
    name = at(layer.values, BACKBONE)
    plugins = registry.load_all("sources") if type(name) is str and name not in registry.find("backbones") else ()
    meant = next(filter(None, (plugin().backbone(name) for plugin in plugins)), None)
    if meant is not None:
        lower = ConfigLayer({"backbone": meant}, layer.source)
        options = {key: value for key, value in layer.values["backbone"].items() if key != "name"}
        layer.values["backbone"] = ConfigLayer({"backbone": options}).over(lower, Config).values["backbone"]
        layer.put_below(lower, BACKBONE)
    return meant is not None


def data_root(name: str) -> str | None:
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
