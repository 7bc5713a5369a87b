"""Configs: YAML files, `base:`, section files and dotted overrides, validated by one schema (`schema.py`).

User documentation: `docs/config.md`.
"""

from densevit.config.config_layers import Overrides
from densevit.config.config_loading import (
    dump,
    from_file,
    from_mapping,
    load,
    values_of_file,
    with_overrides,
)
from densevit.config.data_schema import DataSection
from densevit.config.layer_reading import check_evaluation_overrides
from densevit.config.model_schema import (
    BackboneSection,
    EvaluationSection,
    HeadSection,
    InferenceSection,
    LoraSection,
    ModelSections,
)
from densevit.config.plugin_checks import check_evaluation_plugins, check_plugins
from densevit.config.schema import Config
from densevit.config.schema_validation import full_key
from densevit.config.sections import (
    data_options,
    model_sections,
    section,
    split_options,
)
from densevit.config.training_schema import OptimSection, TrainerSection
from densevit.config.unwritten_values import unwritten
from densevit.config.values import ConfigType, PluginSection, Source

__all__ = [
    "BackboneSection",
    "Config",
    "ConfigType",
    "DataSection",
    "EvaluationSection",
    "HeadSection",
    "InferenceSection",
    "LoraSection",
    "ModelSections",
    "OptimSection",
    "Overrides",
    "PluginSection",
    "Source",
    "TrainerSection",
    "check_evaluation_overrides",
    "check_evaluation_plugins",
    "check_plugins",
    "data_options",
    "dump",
    "from_file",
    "from_mapping",
    "full_key",
    "load",
    "model_sections",
    "section",
    "split_options",
    "unwritten",
    "values_of_file",
    "with_overrides",
]
