"""Single sections of a config, and the sections of a model."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pydantic

from densevit import registry
from densevit.config import layer_reading
from densevit.config.config_layers import Overrides
from densevit.config.data_schema import DataSection
from densevit.config.model_schema import ModelSections
from densevit.config.schema import Config
from densevit.config.schema_validation import check_head_names, validated
from densevit.config.values import Section
from densevit.registry.plugin_options import takes


def section(name: str, values: Mapping[str, Any] | str | Path, source: str, overrides: Overrides = ()) -> Any:
    """A single section, such as a `DataSection`. values: the section's keys, or a section file. source: the origin of
    the values, for messages. overrides: `backbone.key=value`."""
    section_layer = layer_reading.over_base({name: values if isinstance(values, Mapping) else str(values)}, source)
    layer = layer_reading.with_overrides(section_layer, overrides)
    fields: dict[str, Any] = {name: (Config.model_fields[name].annotation, ...)}
    return getattr(validated(pydantic.create_model(name, __base__=Section, **fields), layer), name)


def model_sections(values: Mapping[str, Any], source: str) -> ModelSections:
    """The sections of a model, with checked head names. source: the origin, for messages."""
    layer = layer_reading.layer_of(values, source)
    layer_reading.fill_sections(layer)
    sections = validated(ModelSections, layer)
    check_head_names(sections)
    return sections


def split_options(options: Mapping[str, Any], split: str) -> dict[str, Any]:
    """The options of a data set for one split: of options by split this split's, and `train_` options for `train`."""
    return {
        key: value.get(split, value) if isinstance(value, Mapping) else value
        for key, value in options.items()
        if split == "train" or not key.startswith("train_")
    }


def data_options(section: DataSection) -> dict[str, Any]:
    """The options of the data set's constructor, with `image_size` if it is a parameter."""
    takes_size = section.image_size is not None and takes(registry.load("datasets", section.name), "image_size")
    return section.options | ({"image_size": section.image_size} if takes_size else {})
