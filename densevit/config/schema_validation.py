"""Validates values by the schema; errors have a line for each invalid key: source, problem and nearest key."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from densevit.config.config_layers import ConfigLayer
from densevit.config.key_types import section_type
from densevit.config.model_schema import InferenceSection, LoraSection, ModelSections
from densevit.config.schema import Config
from densevit.config.training_schema import TrainerSection
from densevit.deprecation import DEPRECATED
from densevit.errors import ConfigError, nearest
from densevit.registry.plugin_options import shown, wanted

Model = TypeVar("Model", bound=BaseModel)

_FIXED: dict[str, type[BaseModel]] = {"trainer": TrainerSection, "inference": InferenceSection, "lora": LoraSection}
"""The sections without plugin options."""
_OTHER_LIBRARIES = {
    "model": "weights", "load_from": "weights", "epochs": "trainer.max_epochs", "imgsz": "data.image_size",
    "batch": "data.batch_size", "workers": "data.num_workers", "lr0": "optim.lr", "lrf": "optim.min_lr_ratio",
    "device": "trainer.devices", "amp": "trainer.precision", "nbs": "trainer.accumulate", "freeze": "backbone.freeze",
}  # fmt: skip
"""Keys of Ultralytics and MMDetection, and ours."""


def validated(section_type: type[Model], layer: ConfigLayer) -> Model:
    """The values as sections, such as a `Config`. Raises ConfigError with a line for each invalid key or value."""
    try:
        sections = section_type.model_validate(layer.values)
    except ValidationError as error:
        raise ConfigError("\n".join(_lines(error, layer, section_type))) from None
    if isinstance(sections, ModelSections):
        sections._layer = replace(layer, values={})
    return sections


def full_key(key: str) -> str:
    """The full name of a key of `trainer`, `optim` or `data` that is given alone: trainer.max_images of max_images."""
    return next(
        (
            f"{name}.{key}"
            for name in ("trainer", "optim", "data")
            if key in getattr(section_type(Config.model_fields[name].annotation), "model_fields", ())
            or f"{name}.{key}" in DEPRECATED
        ),
        key,
    )


def check_head_names(sections: ModelSections) -> None:
    """Raises ConfigError for a head name that is an attribute of a torch container, such as `train`."""
    from torch import nn  # slow to import

    for name in sections.heads:
        if any(hasattr(container, name) for container in (nn.ModuleDict(), nn.ParameterDict())):
            raise ConfigError(
                f"{sections._layer.source_of(('heads', name))}: heads.{name}: {name!r} cannot name a head, because "
                f"torch modules have an attribute of that name. Use another name, such as {name}_head."
            )


def _lines(error: ValidationError, layer: ConfigLayer, top: type[BaseModel]) -> Iterator[str]:
    """One line for each invalid key: its source, the key, the error, and the nearest valid key or value."""
    problems, reported = error.errors(), set()
    for problem in problems:
        key, value = _lookup(problem["loc"], layer.values)
        if problem["type"] in ("missing", "extra_forbidden"):
            key = (*_lookup(problem["loc"][:-1], layer.values)[0], str(problem["loc"][-1]))
        if key in reported:
            continue
        reported.add(key)
        dotted = ".".join(key)
        match problem["type"]:
            case "extra_forbidden":
                keys = sorted(_FIXED.get(key[-2] if key[1:] else "", top).model_fields)
                section = f" of {'.'.join(key[:-1])}" if key[1:] else ""
                meant = full_key(_OTHER_LIBRARIES.get(dotted, dotted))
                hint = nearest(key[-1], keys) if meant == dotted else f" Did you mean {meant!r}?"
                text = f"{dotted} is not a key{section}.{hint} Keys: {', '.join(keys)}."
            case "missing":
                text = f"{dotted} is missing."
            case "value_error":
                text = f"{dotted}: {problem['msg'].removeprefix('Value error, ')}"
            case "model_type" | "dict_type" | "model_attributes_type":
                text = f"{dotted} should be a section of keys, not {shown(value)}."
            case "too_short" | "string_too_short":
                text = f"{dotted} is empty: set at least one value."
            case _:
                expected = wanted(other for other in problems if _lookup(other["loc"], layer.values)[0] == key)
                hint = nearest(value, re.findall("'(.+?)'", expected)) if isinstance(value, str) else ""
                text = f"{dotted} should be {expected}, not {shown(value)}.{hint}"
        yield f"{layer.source_of(key)}: {text}"


def _lookup(location: tuple[int | str, ...], values: Mapping[str, Any]) -> tuple[tuple[str, ...], Any]:
    """The key of a pydantic location, without the names of union branches that pydantic appends, and its value."""
    key: list[str] = []
    value: Any = values
    for part in location:
        items = dict(enumerate(value)) if isinstance(value, list) else value
        if not isinstance(items, Mapping) or part not in items:
            break
        key.append(str(part))
        value = items[part]
    return tuple(key), value
