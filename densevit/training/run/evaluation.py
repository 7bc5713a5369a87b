"""Evaluation of a model on validation data, for `densevit.evaluate` and `densevit evaluate`."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytorch_lightning as lightning
import torch

from densevit import config as configs
from densevit.config import Config, DataSection, Overrides, TrainerSection
from densevit.data.data_builder import DataSource, build_data
from densevit.data.data_splits import DataSplits
from densevit.data.transforms.sample_resizing import EvaluationTransform
from densevit.errors import ConfigError
from densevit.evaluation.overrides import evaluation_overrides
from densevit.inference.model_loading import load
from densevit.interfaces import Batch, Class, Dataset, Predictions
from densevit.layers.unchanged import unchanged
from densevit.model import DenseModel, InferenceModel, unwrapped
from densevit.training.callbacks.training_progress import EvaluationProgress
from densevit.training.loop.data_checks import check_channels
from densevit.training.loop.data_module import DenseDataModule
from densevit.training.loop.dense_module import DenseModule
from densevit.training.loop.evaluator_factory import build_evaluators
from densevit.training.loop.model_class_mapping import ClassMapping, labelled_heads, map_classes
from densevit.training.loop.trainer import build_trainer, processes
from densevit.training.loop.validation_loop import Validation
from densevit.training.run.fit import Run
from densevit.training.run.process_state import run_state

Write = Callable[[str, int | str, Predictions], None]
"""A function of a head's name, an image id, and the head's predictions for the image."""


class PredictionWriter(lightning.Callback):
    """Calls `write` with the predictions of each image, in the process that predicts the image. Stores nothing."""

    def __init__(self, write: Write) -> None:
        self.write = write

    def on_validation_batch_end(
        self,
        trainer: lightning.Trainer,
        pl_module: lightning.LightningModule,
        outputs: dict[str, list[Predictions]],  # type: ignore[override]  # the result of validation_step
        batch: Batch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        for name, predictions in outputs.items():
            for target, prediction in zip(batch["targets"], predictions, strict=True):
                if "truth" in target:  # False for an image repeated from another process
                    self.write(name, target["image_id"], prediction)


@dataclass(frozen=True)
class EvaluationPlan:
    """A checked evaluation, with labelled data and mapped classes.

    model: has the heads that the data has labels for. trainer: devices and precision; with the
    training's, metrics equal its validation's. mappings: each head's mapping, where classes are not the data's.
    """

    model: InferenceModel
    data: DataSplits
    trainer: TrainerSection
    mappings: Mapping[str, ClassMapping]

    @classmethod
    def of(
        cls,
        model: InferenceModel,
        data: DataSplits,
        trainer: TrainerSection,
        classes: Mapping[str, str | None] | None = None,
    ) -> "EvaluationPlan":
        """Checks the data and applies the model's replaced resizing to it. Leaves out heads without labels in the
        data, unless no head has any. classes: the mapping that `map_classes` takes.

        Raises DataError for images without labels, and if no class is mapped.
        """
        replaced = None if model.replaced_resize is None else EvaluationTransform(model.replaced_resize)
        data = data.padded_to(model.padding, replaced)
        check_channels(data.val, model)
        data.val.check_labels()
        labelled = labelled_heads(model, data.val, classes or {})
        model = model.with_heads(labelled) if 0 < len(labelled) < len(model.heads) else model
        return cls(model, data, trainer, map_classes(model, data, classes))

    @property
    def classes(self) -> dict[str, tuple[Class, ...]]:
        """The evaluated classes, by head."""
        return self.model.classes | {name: mapping.classes for name, mapping in self.mappings.items()}

    def run(self, write: Write | None = None) -> Validation:
        """Evaluates the model. write: called with each image's predictions, in the image's process.

        Warns of labels far outside of those of the training images.
        """
        record, heads = self.model.training_record, self.model.heads.values()
        if record.medians and all(head.depth_type != "inverse_depth" for head in heads):
            record.warn_of_values(self.data.val_record().medians)
        with run_state(self.trainer.tf32), unchanged(self.model):  # Lightning erases gradients and moves the model
            evaluators = build_evaluators(self.model, self.data.val, mappings=self.mappings)
            if self.trainer.compile and isinstance(self.model, DenseModel):
                self.model.compile()
            module = DenseModule(self.model, None, evaluators, mappings=self.mappings)
            callbacks = [EvaluationProgress(), *([] if write is None else [PredictionWriter(write)])]
            trainer = build_trainer(self.trainer, callbacks=callbacks, enable_progress_bar=False)
            trainer.validate(module, datamodule=DenseDataModule(self.data), verbose=False)
            return module.validation


def evaluate(
    model: InferenceModel | Run | str | Path,
    data: DataSource | Dataset | None = None,
    classes: Mapping[str, str | None] | None = None,
    overrides: Overrides = (),
) -> dict[str, float]:
    """Evaluates a model on one device, on the devices in `overrides`, or in torchrun's processes.

    Returns the metrics, named HEAD/METRIC. On the same devices they equal the metrics of `densevit evaluate` and of
    validation during training.

    model: a model, with its inference options and replaced resizing, a run, a run folder or a model file. data: the
    config section `data` as a mapping, a section file or a `DataSection`, or a config; its split `data.val_split` is
    evaluated; or a `Dataset`. None: the training data set. Images of a `Dataset`, a folder or a shipped section are
    resized as in training. classes: maps class names of the model to class names of the data, or to None, in addition
    to equal names; only mapped classes are evaluated (docs/evaluate.md). overrides: changes of the model's config, as
    in `densevit evaluate`: "heads.depth.evaluation.align=median", or values by key.
    Raises DataError if no class is mapped, and ConfigError for overrides that change the model.

    Example:
        >>> metrics = densevit.evaluate("runs/setr_vit", overrides=["data.batch_size=1"])
        >>> "segmentation/mIoU" in metrics
        True
    """
    if isinstance(model, str | Path | Run):
        model = model.model if isinstance(model, Run) else load(model)
    evaluated: InferenceModel = unwrapped(model, "evaluate")
    if overrides:
        evaluated = _overridden(evaluated, overrides)
    if not isinstance(data, Config | DataSection | Mapping | str | Path | None):  # resized as the training's data
        resizing = (
            evaluated.training_data.model_dump(include={"image_size", "transforms"}) if evaluated.training_data else {}
        )
        splits = build_data(resizing, val=data)
    elif isinstance(data, str | Path):
        trained = evaluated.training_data
        changes = evaluation_overrides({"data": str(data)}, trained, evaluated)
        values = {} if trained is None else trained.model_dump()
        splits = build_data(configs.section("data", values, "evaluate", changes))
    elif (source := data or evaluated.config or evaluated.training_data) is not None:
        splits = build_data(source)
    else:
        raise ConfigError("evaluate: the model has no config, so no data. Fix: pass data={'name': ..., ...}.")
    return EvaluationPlan.of(evaluated, splits, _trainer(evaluated, overrides), classes).run().metrics


def _overridden(model: InferenceModel, overrides: Overrides) -> InferenceModel:
    """The model with overrides applied to its config."""
    changes = evaluation_overrides(overrides, model.training_data, model)
    if model.config is None:
        raise ConfigError(f"evaluate: the model has no config for the overrides {', '.join(overrides)}.")
    config = configs.from_mapping(model.config.model_dump(), "evaluate", changes)
    configs.check_evaluation_plugins(config)
    return model.with_config(config)


def _trainer(model: InferenceModel, overrides: Overrides) -> TrainerSection:
    """The section `trainer` of the model's config, with the devices of `processes` unless overridden; without autocast
    for weights of other types than float32."""
    overridden = {override.partition("=")[0].strip() for override in overrides}
    update = {key: value for key, value in processes().items() if f"trainer.{key}" not in overridden}
    has_other_types = isinstance(model, DenseModel) and any(p.dtype != torch.float32 for p in model.parameters())
    if has_other_types and "trainer.precision" not in overridden:
        update["precision"] = "32"  # without autocast: in the weights' types
    section = TrainerSection(max_steps=1) if model.config is None else model.config.trainer
    return section.model_copy(update=update)
