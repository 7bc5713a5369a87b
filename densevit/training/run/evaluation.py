"""Evaluation of a model on validation data, for `densevit.evaluate` and `densevit evaluate`."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from densevit import config as configs
from densevit.config import Config, DataSection, Overrides, TrainerSection
from densevit.data.data_builder import DataSplits
from densevit.errors import ConfigError
from densevit.inference.file_model import FileModel
from densevit.inference.model_loading import load
from densevit.inference.predictor import Predictor
from densevit.interfaces import Class, Evaluator
from densevit.model import DenseModel
from densevit.training.callbacks.prediction_writer import PredictionWriter, Write
from densevit.training.callbacks.training_progress import EvaluationProgress
from densevit.training.loop.data_checks import check_channels
from densevit.training.loop.data_module import DenseDataModule
from densevit.training.loop.dense_module import DenseModule
from densevit.training.loop.evaluator_factory import build_evaluators
from densevit.training.loop.model_class_mapping import ClassMapping, labelled_heads, map_classes
from densevit.training.loop.trainer import build_trainer, processes
from densevit.training.loop.training_precision import set_tf32
from densevit.training.run.fit import Run
from densevit.training.run.process_state import run_state


class Evaluation(NamedTuple):
    """The result of an evaluation. metrics: named HEAD/METRIC. evaluators: each head's evaluator. indices: data set
    indices by image id.
    """

    metrics: dict[str, float]
    evaluators: dict[str, Evaluator]
    indices: dict[int | str, int]


@dataclass(frozen=True)
class EvaluationPlan:
    """A checked evaluation, with labelled data and mapped classes.

    predictor: predicts with the heads that the data has labels for. trainer: devices and precision; with the
    training's, metrics equal its validation's. mappings: each head's mapping, where classes are not the data's.
    """

    predictor: Predictor
    data: DataSplits
    trainer: TrainerSection
    mappings: Mapping[str, ClassMapping]

    @classmethod
    def of(
        cls,
        predictor: Predictor,
        data: DataSplits,
        trainer: TrainerSection,
        classes: Mapping[str, str | None] | None = None,
    ) -> "EvaluationPlan":
        """Checks the data and applies the predictor's replaced resizing to it. Leaves out heads without labels in the
        data, unless no head has any. classes: the mapping that `map_classes` takes.

        Raises DataError for images without labels, and if no class is mapped; ConfigError for an exported file with
        score thresholds in OpenVINO, which returns only objects above them; ONNX Runtime returns all.
        """
        model = predictor.model
        if isinstance(model, FileModel) and model.thresholds and model.file.runtime == "openvino":
            raise ConfigError(
                f"{model.file.path}: OpenVINO returns no objects below the score thresholds in the file, which cuts "
                "AP. Fix: evaluate it with ONNX Runtime, or a file without --postprocess."
            )
        data = data.padded_to(model.multiple, predictor.replaced_resize)
        check_channels(data.val, model)
        data.val.check_labels()
        labelled = labelled_heads(model, data.val, classes or {})
        predictor = predictor.with_heads(labelled) if 0 < len(labelled) < len(model.heads) else predictor
        return cls(predictor, data, trainer, map_classes(predictor.model, data, classes))

    @property
    def classes(self) -> dict[str, tuple[Class, ...]]:
        """The evaluated classes, by head."""
        return self.predictor.classes | {name: mapping.classes for name, mapping in self.mappings.items()}

    @run_state()
    def run(self, write: Write | None = None) -> Evaluation:
        """Evaluates the model. write: called with each image's predictions, in the image's process."""
        model, config = self.predictor.model, self.predictor.config
        evaluators = build_evaluators(model, config, self.data.val, mappings=self.mappings)
        if self.trainer.compile:
            model.compile()
        module = DenseModule(self.predictor, None, evaluators, mappings=self.mappings)
        callbacks = [EvaluationProgress(), *([] if write is None else [PredictionWriter(write)])]
        trainer = build_trainer(self.trainer, callbacks=callbacks, enable_progress_bar=False)
        set_tf32(self.trainer.tf32)
        trainer.validate(module, datamodule=DenseDataModule(self.data), verbose=False)
        return Evaluation(module.validation.metrics, evaluators, module.validation.indices)


def evaluate(
    model: DenseModel | Predictor | Run | str | Path,
    data: Config | DataSection | Mapping[str, Any] | str | Path | None = None,
    classes: Mapping[str, str | None] | None = None,
    overrides: Overrides = (),
) -> dict[str, float]:
    """Evaluates a model on one device, on the devices in `overrides`, or in torchrun's processes.

    Returns the metrics, named HEAD/METRIC. On the same devices they equal the metrics of `densevit evaluate` and of
    validation during training.

    model: a model, a run, a run folder or a model file, or a predictor, with its inference options and replaced
    resizing. data: the config section `data` as a mapping, a section file or a `DataSection`, or a config; its split
    `data.split` is evaluated. None: the training data set. classes: maps class names of the model to class names of the
    data, or to None, in addition to equal names; only mapped classes are evaluated (docs/evaluate.md). overrides:
    overrides of the model's config, as in `densevit evaluate`: "heads.depth.evaluation.align=median", or values by
    key. Raises DataError
    if no class is mapped, and ConfigError for overrides that change the model.

    Example:
        >>> metrics = densevit.evaluate("runs/setr_vit", overrides=["data.batch_size=1"])
        >>> "segmentation/mIoU" in metrics
        True
    """
    predictor = _overridden(_predictor(model), overrides)
    if data is None:
        data = predictor.data if predictor.config is None else predictor.config
    if data is None:
        raise ConfigError("evaluate: the model has no config, so no data. Fix: pass data={'name': ..., ...}.")
    plan = EvaluationPlan.of(predictor, DenseDataModule(data).data, _trainer(predictor, overrides), classes)
    model = predictor.model
    device, was_training = model.mean.device, model.training
    try:
        return plan.run().metrics
    finally:
        model.to(device).train(was_training)  # Lightning moves the model to the CPU


def _predictor(model: DenseModel | Predictor | Run | str | Path) -> Predictor:
    if isinstance(model, Run):
        return model.model
    if isinstance(model, str | Path):
        return load(model)
    return Predictor(model) if isinstance(model, DenseModel) else model


def _overridden(predictor: Predictor, overrides: Overrides) -> Predictor:
    """The predictor with overrides applied to its config."""
    if not overrides:
        return predictor
    configs.check_evaluation_overrides(overrides)
    if predictor.config is None:
        raise ConfigError(f"evaluate: the model has no config for the overrides {', '.join(overrides)}.")
    config = configs.from_mapping(predictor.config.model_dump(), "evaluate", overrides)
    configs.check_evaluation_plugins(config)
    return Predictor(predictor.model, config, resize=predictor.replaced_resize)


def _trainer(predictor: Predictor, overrides: Overrides) -> TrainerSection:
    """The section `trainer` of the model's config, with the devices of `processes` unless overridden."""
    overridden = {override.partition("=")[0].strip() for override in overrides}
    update = {key: value for key, value in processes().items() if f"trainer.{key}" not in overridden}
    section = TrainerSection(max_steps=1) if predictor.config is None else predictor.config.trainer
    return section.model_copy(update=update)
