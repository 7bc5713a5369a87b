"""densevit/config/key_types.py: an override replaces a mapping, and sections are merged."""

import copy
import inspect
import typing
from collections.abc import Iterator
from dataclasses import is_dataclass
from typing import Any

import yaml

from densevit import config, registry
from densevit.config import Config
from densevit.config.config_layers import at
from densevit.config.values import with_value
from densevit.registry.groups import POSITIONAL_ARGUMENTS

FILE: dict[str, Any] = {
    "backbone": {"name": "timm", "model": "resnet18", "model_args": {"in_chans": 3, "deep": [{"a": 1}]}},
    "heads": {
        "boxes": {
            "name": "box_query_detr",
            "transformer": {"width": 32, "num_heads": 4},
            "neck": {"name": "fpn", "width": 8},
        },
        "areas": {"name": "setr", "evaluation": {"name": "segmentation", "boundary": True}},
    },
    "data": {
        "name": "coco",
        "root": "d",
        "channels": {"red": "_red", "nir": "_nir"},
        "annotations": {"train": "a.json", "val": "b.json"},
        "transforms": {"name": "crop"},
        "final_phase": {"start": 0.5, "transforms": {"name": "crop", "deep": {"a": 1}}},
    },
    "method": {"name": "feature_distillation", "teacher": {"name": "resnet", "depth": 18, "weights": "w.pth"}},
    "optim": {"lr": 1e-3, "lr_factors": {"heads.*": 10.0}},
    "trainer": {"max_steps": 3, "callbacks": [{"name": "a:B", "options": {"c": {"d": 1}}}]},
    "inference": {"window": 64, "flip": True},
}


def resolved(*overrides: str, **changed: Any) -> dict[str, Any]:
    """The values of FILE with changed sections and overrides."""
    return config.load(copy.deepcopy({**FILE, **changed}), overrides).model_dump()


def schema_mappings() -> Iterator[tuple[str, str]]:
    """The class and key of the mappings with free keys in the JSON schema of a config, with BY_NAME."""
    schema = Config.model_json_schema()
    for name, section in {"Config": schema, **schema["$defs"]}.items():
        for key, value in section.get("properties", {}).items():
            kinds = [value, *value.get("anyOf", ())]
            if any(kind.get("type") == "object" for kind in kinds):
                yield name, key


def option_kinds(is_kind: Any) -> list[tuple[str, str, str]]:
    """The group, plugin and option of all installed plugins' options with an annotation of a kind."""
    options = []
    for group in POSITIONAL_ARGUMENTS:
        for name in registry.list_plugins(group):
            plugin = registry.load(group, name)
            constructor = plugin.__init__ if isinstance(plugin, type) else plugin
            try:
                hints = typing.get_type_hints(constructor)
            except Exception:
                continue
            keys = [*inspect.signature(plugin).parameters][len(POSITIONAL_ARGUMENTS[group]) :]
            options += [(group, name, key) for key in keys if is_kind(hints.get(key))]
    return options


def is_dict(kind: Any) -> bool:
    return any(typing.get_origin(part) is dict for part in (kind, *typing.get_args(kind)))


def section_of(group: str, name: str) -> tuple[str, dict[str, Any]]:
    """The key and the values of a section that has this plugin."""
    key = {
        "backbones": "backbone",
        "heads": "heads.boxes",
        "necks": "heads.boxes.neck",
        "datasets": "data",
        "transforms": "data.transforms",
        "evaluators": "heads.boxes.evaluation",
        "methods": "method",
    }
    return key.get(group, "optim"), {"name": name}


def with_option(group: str, name: str, option: str, value: Any) -> tuple[str, dict[str, Any]]:
    """The key of an option, and values of a file that sets it."""
    where, section = section_of(group, name)
    return f"{where}.{option}", with_value(FILE, where.split("."), {**section, option: value})


def test_options_whose_type_is_a_mapping_are_replaced():
    """Without those whose mapping has sections, see below."""
    options = [option for option in option_kinds(is_dict) if option[2] not in ("sets", "teacher")]
    assert {"annotations", "splits", "model_args"} <= {row[2] for row in options}
    assert ("methods", "beit", "tokenizer") in options or "beit" not in registry.find("methods")
    for option in options:
        key, values = with_option(*option, {"a": "1", "b": "2"})
        for overrides, expected in (
            ([f"{key}={{b: '3'}}"], {"b": "3"}),
            ([f"{key}.b='3'"], {"a": "1", "b": "3"}),
            ([f"{key}={{c: '3'}}", f"{key}.d='4'"], {"c": "3", "d": "4"}),
        ):
            assert at(config.load(values, overrides).model_dump(), (*key.split("."),)) == expected, option


def test_options_that_are_sections_are_merged():
    options = [option for option in option_kinds(is_dataclass) if option[2] != "channels"]  # given by the data
    assert len(options) > 10
    for option in options:
        key, values = with_option(*option, {"a": 1, "b": 2})
        found = at(config.load(values, [f"{key}={{b: 3}}"]).model_dump(), (*key.split("."),))
        assert found == {"a": 1, "b": 3}, option


def test_each_mapping_of_the_schema_is_replaced_except_heads(tmp_path):
    new = {"channels": ("data.channels", {"nir": "_n"}), "lr_factors": ("optim.lr_factors", {"backbone.*": 0.1})}
    assert {key for _, key in schema_mappings()} == {"heads", *new}
    (tmp_path / "base.yaml").write_text(yaml.safe_dump(FILE))
    for key, value in new.values():
        overridden = resolved(f"{key}={value}")
        *above, last = key.split(".")
        child = {last: value} if not above else {above[0]: {last: value}}
        for values in (overridden, config.load({"base": str(tmp_path / "base.yaml"), **child}).model_dump()):
            assert list(at(values, (*key.split("."),))) == list(value)


# ---- immutable ----


def test_widths_are_numbers_of_channels():
    """Not factors, in any plugin."""
    assert not [option for option in option_kinds(lambda kind: kind is float) if "width" in option[2]]
