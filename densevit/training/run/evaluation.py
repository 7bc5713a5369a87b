"""Evaluation of a model on the validation data."""

import os
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from pytorch_lightning.plugins.environments import TorchElasticEnvironment

from densevit.config import Config, TrainerSection
from densevit.data.build import Data
from densevit.errors import ConfigError
from densevit.inference.predictor import Predictor
from densevit.interfaces import Evaluator
from densevit.model import DenseModel
from densevit.training.callbacks.predictions import PredictionWriter, Write
from densevit.training.callbacks.progress import EvaluationProgress
from densevit.training.loop.class_mapping import ClassMapping
from densevit.training.loop.data_module import DenseDataModule
from densevit.training.loop.dense_module import DenseModule
from densevit.training.loop.evaluators import build_evaluators
from densevit.training.loop.lightning_logging import silence_lightning
from densevit.training.loop.peers import Peers, watching
from densevit.training.loop.precision import tf32
from densevit.training.loop.trainer import build_trainer


class Evaluation(NamedTuple):
    """metrics: named HEAD/METRIC. evaluators: by head. indices: in the data set, by image id."""

    metrics: dict[str, float]
    evaluators: dict[str, Evaluator]
    indices: dict[int | str, int]


def evaluate(
    model: DenseModel | Predictor,
    data: Data,
    config: Config | None,
    write: Write | None = None,
    mappings: Mapping[str, ClassMapping] | None = None,
) -> tuple[dict[str, float], dict[str, Evaluator]]:
    """The metrics and the evaluators of `evaluation`."""
    return evaluation(model, data, config, write, mappings)[:2]


def evaluation(
    model: DenseModel | Predictor,
    data: Data,
    config: Config | None,
    write: Write | None = None,
    mappings: Mapping[str, ClassMapping] | None = None,
) -> Evaluation:
    """Evaluates a model on the validation data.

    write: called with each image's predictions; with several processes, in each for its own images. The precision and
    the devices are those of the config, so that the metrics equal those of the validation during training; None: those
    of `processes`, and the defaults. mappings: from `map_classes`, of heads whose classes are not the data's.
    """
    predictor = Predictor(model, config) if isinstance(model, DenseModel) else model
    model = predictor.model
    silence_lightning()
    section = TrainerSection(max_steps=1, **processes()) if config is None else config.trainer
    evaluators = build_evaluators(model, config, data.val, mappings=mappings)
    if section.compile:
        model.compile()
    if predictor.resize_is_replaced and predictor.resize is not None:
        data.val_transform = predictor.resize
    module = DenseModule(predictor, None, evaluators)
    module.mappings = mappings or {}
    peers = Peers()
    callbacks = [EvaluationProgress(), *([] if write is None else [PredictionWriter(write)]), peers]
    trainer = build_trainer(section, callbacks=callbacks, enable_progress_bar=False)
    with watching(trainer, peers), tf32(section.tf32):
        trainer.validate(module, datamodule=DenseDataModule(data), verbose=False)
    return Evaluation(module.metrics, evaluators, module.indices)


def check_overrides(overrides: Sequence[str]) -> None:
    """Raises ConfigError for overrides of the config, "section.key=value", that would change the model."""
    for override in overrides:
        section, *keys = override.split("=")[0].split(".")
        of_head = keys[1] if keys[1:] else ""
        if section in ("backbone", "weights", "optim") or (
            section == "heads" and of_head not in ("evaluation", "inference")
        ):
            raise ConfigError(
                f"{override}: a run is evaluated as it was trained. Allowed overrides are data.*, trainer.*, "
                "inference.*, heads.NAME.inference.* and heads.NAME.evaluation.*"
            )


def processes() -> dict[str, Any]:
    """The keys of the config section `trainer` for an evaluation: the processes of torchrun, else one device."""
    if not TorchElasticEnvironment.detect():
        return {"devices": 1, "num_nodes": 1, "strategy": "auto"}
    total = int(os.environ["WORLD_SIZE"])
    local = int(os.environ.get("LOCAL_WORLD_SIZE", total))
    return {"devices": local, "num_nodes": total // local, "strategy": "ddp" if total > 1 else "auto"}
