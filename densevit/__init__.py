"""densevit: dense prediction in which any backbone feeds any head, and both are plugins.

Importing densevit is cheap: each public name is imported when it is first used.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from densevit.data.build import build_data
    from densevit.errors import ConfigError, DataError, DensevitError, PluginError, TrainingError, WeightsError
    from densevit.inference.creating import create_backbone, create_model
    from densevit.inference.loading import load, save
    from densevit.inference.predictor import Predictor
    from densevit.inference.result import Result
    from densevit.interfaces import Backbone, CheckpointLayout, Class, Dataset, Evaluator, Head, Neck
    from densevit.model import DenseModel, build_model, create_head
    from densevit.registry import list_backbones, list_heads

__version__ = "0.1.0"

_HOMES = {
    "densevit.data.build": ("build_data",),
    "densevit.errors": ("ConfigError", "DataError", "DensevitError", "PluginError", "TrainingError", "WeightsError"),
    "densevit.inference.creating": ("create_backbone", "create_model"),
    "densevit.inference.loading": ("load", "save"),
    "densevit.inference.predictor": ("Predictor",),
    "densevit.inference.result": ("Result",),
    "densevit.interfaces": ("Backbone", "CheckpointLayout", "Class", "Dataset", "Evaluator", "Head", "Neck"),
    "densevit.model": ("DenseModel", "build_model", "create_head"),
    "densevit.registry": ("list_backbones", "list_heads"),
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
    "Predictor",
    "Result",
    "TrainingError",
    "WeightsError",
    "build_data",
    "build_model",
    "create_backbone",
    "create_head",
    "create_model",
    "list_backbones",
    "list_heads",
    "load",
    "save",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module 'densevit' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOME_OF[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
