"""densevit: dense prediction in which any backbone feeds any head, and both are plugins.

Importing densevit is cheap: each public name is imported when it is first used.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from densevit.data.build import build_data
    from densevit.errors import ConfigError, DataError, DensevitError, PluginError, TrainingError, WeightsError
    from densevit.interfaces import Backbone, CheckpointLayout, Class, Dataset, Evaluator, Head, Neck
    from densevit.model import DenseModel, build_model, create_backbone, create_head
    from densevit.registry import list_backbones, list_heads
    from densevit.weights.model_file import load

__version__ = "0.1.0"

_HOMES = {
    "densevit.data.build": ("build_data",),
    "densevit.errors": ("ConfigError", "DataError", "DensevitError", "PluginError", "TrainingError", "WeightsError"),
    "densevit.interfaces": ("Backbone", "CheckpointLayout", "Class", "Dataset", "Evaluator", "Head", "Neck"),
    "densevit.model": ("DenseModel", "build_model", "create_backbone", "create_head"),
    "densevit.registry": ("list_backbones", "list_heads"),
    "densevit.weights.model_file": ("load",),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "Backbone",
    "CheckpointLayout",
    "Class",
    "ConfigError",
    "DataError",
    "Dataset",
    "DenseModel",
    "DensevitError",
    "Evaluator",
    "Head",
    "Neck",
    "PluginError",
    "TrainingError",
    "WeightsError",
    "build_data",
    "build_model",
    "create_backbone",
    "create_head",
    "list_backbones",
    "list_heads",
    "load",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module 'densevit' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOME_OF[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
