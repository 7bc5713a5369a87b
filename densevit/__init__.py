"""densevit: dense prediction with any backbone under any head; both are plugins.

Importing densevit is cheap: each public name is imported when it is first used.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from densevit.benchmarking.suite import Benchmark, benchmark
    from densevit.data.build import build_data, create_dataset
    from densevit.data.converting.convert import convert_dataset
    from densevit.data.loading.batch_sampler import collate
    from densevit.doctor.diagnose import diagnose
    from densevit.doctor.diagnosis import Diagnosis
    from densevit.errors import ConfigError, DataError, DensevitError, PluginError, TrainingError, WeightsError
    from densevit.exporting.exporting import Exported, export
    from densevit.inference.creating import build_model, create_backbone, create_model
    from densevit.inference.loading import load, save
    from densevit.inference.predictor import Predictor
    from densevit.inference.prelabels import write_prelabels
    from densevit.inference.result import Result
    from densevit.inspection.inspector import Inspection, inspect
    from densevit.interfaces import (
        Backbone,
        CheckpointLayout,
        Class,
        Dataset,
        Evaluator,
        Head,
        LossContext,
        Method,
        Neck,
        Recipe,
        TargetType,
    )
    from densevit.model import DenseModel, create_head, create_neck
    from densevit.registry import (
        list_backbones,
        list_checkpoints,
        list_datasets,
        list_evaluators,
        list_heads,
        list_methods,
        list_necks,
        list_targets,
    )
    from densevit.targets.types import create_target
    from densevit.training.loop.checks import check_batch
    from densevit.training.loop.data_module import DenseDataModule
    from densevit.training.loop.dense_module import DenseModule
    from densevit.training.loop.evaluators import create_evaluator
    from densevit.training.loop.method import create_method
    from densevit.training.loop.optim import create_optimizer
    from densevit.training.run.evaluation import evaluate
    from densevit.training.run.fit import Run, fit
    from densevit.training.run.replay import Replay, replay
    from densevit.visualization.pages import report

__version__ = "0.1.0"

_HOMES = {
    "densevit.benchmarking.suite": (
        "Benchmark",
        "benchmark",
    ),
    "densevit.data.build": (
        "build_data",
        "create_dataset",
    ),
    "densevit.data.converting.convert": ("convert_dataset",),
    "densevit.data.loading.batch_sampler": ("collate",),
    "densevit.doctor.diagnose": ("diagnose",),
    "densevit.doctor.diagnosis": ("Diagnosis",),
    "densevit.errors": (
        "ConfigError",
        "DataError",
        "DensevitError",
        "PluginError",
        "TrainingError",
        "WeightsError",
    ),
    "densevit.exporting.exporting": (
        "Exported",
        "export",
    ),
    "densevit.inference.creating": (
        "build_model",
        "create_backbone",
        "create_model",
    ),
    "densevit.inference.loading": (
        "load",
        "save",
    ),
    "densevit.inference.predictor": ("Predictor",),
    "densevit.inference.prelabels": ("write_prelabels",),
    "densevit.inference.result": ("Result",),
    "densevit.inspection.inspector": (
        "Inspection",
        "inspect",
    ),
    "densevit.interfaces": (
        "Backbone",
        "CheckpointLayout",
        "Class",
        "Dataset",
        "Evaluator",
        "Head",
        "LossContext",
        "Method",
        "Neck",
        "Recipe",
        "TargetType",
    ),
    "densevit.model": (
        "DenseModel",
        "create_head",
        "create_neck",
    ),
    "densevit.registry": (
        "list_backbones",
        "list_checkpoints",
        "list_datasets",
        "list_evaluators",
        "list_heads",
        "list_methods",
        "list_necks",
        "list_targets",
    ),
    "densevit.targets.types": ("create_target",),
    "densevit.training.loop.checks": ("check_batch",),
    "densevit.training.loop.data_module": ("DenseDataModule",),
    "densevit.training.loop.dense_module": ("DenseModule",),
    "densevit.training.loop.evaluators": ("create_evaluator",),
    "densevit.training.loop.optim": ("create_optimizer",),
    "densevit.training.run.replay": (
        "Replay",
        "replay",
    ),
    "densevit.training.run.evaluation": ("evaluate",),
    "densevit.training.run.fit": ("Run", "fit"),
    "densevit.training.loop.method": ("create_method",),
    "densevit.visualization.pages": ("report",),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "Backbone",
    "Benchmark",
    "CheckpointLayout",
    "Class",
    "ConfigError",
    "DataError",
    "Dataset",
    "DenseDataModule",
    "DenseModel",
    "DenseModule",
    "DensevitError",
    "Diagnosis",
    "Evaluator",
    "Exported",
    "Head",
    "Inspection",
    "LossContext",
    "Method",
    "Neck",
    "PluginError",
    "Predictor",
    "Recipe",
    "Replay",
    "Result",
    "Run",
    "TargetType",
    "TrainingError",
    "WeightsError",
    "benchmark",
    "build_data",
    "build_model",
    "check_batch",
    "collate",
    "convert_dataset",
    "create_backbone",
    "create_dataset",
    "create_evaluator",
    "create_head",
    "create_method",
    "create_model",
    "create_neck",
    "create_optimizer",
    "create_target",
    "diagnose",
    "evaluate",
    "export",
    "fit",
    "inspect",
    "list_backbones",
    "list_checkpoints",
    "list_datasets",
    "list_evaluators",
    "list_heads",
    "list_methods",
    "list_necks",
    "list_targets",
    "load",
    "replay",
    "report",
    "save",
    "write_prelabels",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module 'densevit' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOME_OF[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
