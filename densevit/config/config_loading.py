"""Loads configs from files and mappings, with overrides. Writes configs as YAML."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from densevit.config import layer_reading, yaml_io
from densevit.config.config_layers import ConfigLayer, Overrides
from densevit.config.initial_weights import settled
from densevit.config.key_types import named_classes
from densevit.config.model_schema import ModelSections
from densevit.config.schema import Config
from densevit.config.schema_validation import validated
from densevit.errors import ConfigError, printable
from densevit.paths import user_path

_LARGEST_IN_FILE = 2**20  # characters of a config inside another file: PyYAML takes minutes for megabytes


def load(source: str | Path | Mapping[str, Any], overrides: Overrides = ()) -> Config:
    """Loads a config from a file, a run folder, a shipped config's name or a mapping, with overrides such as
    `optim.lr=1e-4`, or {"optim.lr": 1e-4}.

    Raises ConfigError with one line for each invalid key or value. Does not check plugin options; see `check_plugins`.
    """
    if isinstance(source, Mapping):
        return from_mapping(source, "config", overrides)
    return _loaded(layer_reading.read(yaml_io.find_file(str(source))), overrides)


def from_mapping(values: Mapping[str, Any], source: str = "config", overrides: Overrides = ()) -> Config:
    """The config of a mapping, such as a parsed `dump`, merged over its `base`. source: the mapping's origin, for
    messages."""
    return _loaded(layer_reading.over_base(values, source), overrides)


def with_overrides(config: Config, overrides: Overrides) -> Config:
    """A copy of a config with overrides such as `optim.lr=1e-4`."""
    layer = replace(config._layer, values=config.model_dump())
    return settled(validated(Config, layer_reading.with_overrides(layer, overrides)))


def values_of_file(
    text: str, source: str, trust: bool = False, run: Path | None = None, part: str = ""
) -> dict[str, Any]:
    """Parses the config inside a file that may be from another person, such as the header of a model file.

    source: the file, for messages. trust: True: the values may name a `module:Class`, or nothing is built from them.
    run: a folder whose config.yaml may name the same classes. part: the only section to read; "": all.
    Raises ConfigError for YAML that is not a mapping, for megabytes of text, and for a class without trust, whose code
    would run.
    """
    if not isinstance(text, str) or len(text) > _LARGEST_IN_FILE:
        raise ConfigError(f"{source}: its config should be text of at most {_LARGEST_IN_FILE:,} characters.")
    values = yaml_io.parse(text, source)
    if not isinstance(values, dict):
        raise ConfigError(f"{source}: its config should be keys and values, not a {type(values).__name__}.")
    if part:
        values = {part: values.get(part, {})}
    if not trust and (names := named_classes(values, Config)):
        file = run / "config.yaml" if run is not None else Path()
        named_in_run = named_classes(layer_reading.read(file).values, Config) if file.is_file() else set()
        for name in sorted(names - named_in_run):
            raise ConfigError(
                f"{source}: {name!r} is named in this file: its code would run, and the file may be from another "
                "person. Fix: for the file of your run, name the run's folder; if you trust the file, use "
                "densevit.load(..., trust=True) or --trust."
            )
    return values


def from_file(values: Mapping[str, Any], source: str) -> Config:
    """The config from `values_of_file`, which is complete: without `base` and section files."""
    return validated(Config, layer_reading.layer_of(values, source))


def dump(config: ModelSections, comments: Mapping[str, str] | None = None) -> str:
    """The complete config as YAML, which loads to an equal config. comments: derived facts, at the end."""
    text = f"# format_version: {yaml_io.FORMAT}\n{yaml_io.write(config.model_dump())}"
    if comments:
        facts = (printable(" ".join(f"# {name}: {fact}".split())) for name, fact in comments.items())
        text += "\n# Derived from the above:\n" + "".join(f"{fact}\n" for fact in facts)
    return text


def _loaded(layer: ConfigLayer, overrides: Overrides) -> Config:
    layer = layer_reading.with_overrides(layer, overrides)
    weights, backbone = layer.values.get("weights"), layer.values.get("backbone", {})
    has_no_name = isinstance(backbone, dict) and "name" not in backbone
    if has_no_name and isinstance(weights, str) and (saved := _backbone_of(weights)):
        layer.values["backbone"] = saved | backbone
    return settled(validated(Config, layer))


def _backbone_of(weights: str) -> dict[str, Any]:
    """The backbone's section of a run or a model file, without keys of its training; {} if there is none."""
    path = user_path(weights)
    folder = path if path.is_dir() else None
    try:
        with safe_open(path if folder is None else folder / "model.safetensors", framework="np") as file:
            text = (file.metadata() or {}).get("config", "{}")
    except (SafetensorError, OSError):
        return {}
    values = values_of_file(text, weights, run=folder, part="backbone")["backbone"]
    return {key: value for key, value in values.items() if key not in ("weights", "allow_mismatch", "cache", "lora")}
