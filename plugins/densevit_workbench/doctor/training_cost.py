"""The training cost of a config: parameters, multiply-adds and budget."""

import math
import warnings
from dataclasses import dataclass

import numpy as np

from densevit import registry
from densevit.config import Config
from densevit.data.channel_statistics import with_channels
from densevit.data.data_splits import DataSplits
from densevit.errors import DensevitError, counted
from densevit.model import build_from_sections, classes_by_head
from densevit.model.dense import DenseModel
from densevit.training.loop.budget import Budget
from densevit.training.run.config_checks import check_frozen, check_labels, check_model
from densevit_workbench.doctor.findings import Findings
from densevit_workbench.initial_weights import initial_weights
from densevit_workbench.model_cost import model_cost

_MIN_STEPS = {"random": 1000, "pretrained": 100}  # with fewer, a model learns next to nothing in any shipped recipe
FEW_IMAGES = 5000  # with fewer, models trained from random weights score far below pretrained ones
PASSES = 3  # multiply-adds of a training step in forward passes: the backward pass costs as much as two


@dataclass(frozen=True)
class TrainingCost:
    """The training cost of a config.

    size: (h, w) of the input image for which `multiply_adds` are counted. budget: the run's length on one device.
    """

    size: tuple[int, int]
    parameters: int
    trained_parameters: int
    multiply_adds: int
    budget: Budget

    @property
    def training_multiply_adds(self) -> int:
        """Multiply-adds of all forward and backward passes of the run."""
        return PASSES * self.multiply_adds * self.budget.images


def training_cost(config: Config, data: DataSplits, sizes: np.ndarray, findings: Findings) -> TrainingCost | None:
    """Builds the model, counts its cost, and reports problems that training would report at its start.

    sizes: (N, 2) of images; the cost is counted for the median size. Returns None if the model cannot be built.
    """
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            check_frozen(config)
            if registry.load("methods", config.method.name).needs_labels:
                check_labels(config, data)
            config = with_channels(config, data.train)
            model = build_from_sections(config, classes_by_head(config, data.train), pretrained=False)
            data = data.padded_to(model.padding)
            budget = Budget.of(config.trainer, data.batches_per_epoch(), config.data.batch_size, 1)
            check_model(config, data, model)
            check_budget(budget, config)
        except DensevitError as error:
            findings.report("error", "the config cannot be trained on this data", [str(error)])
            return None
    texts = list(dict.fromkeys(str(warning.message) for warning in caught if issubclass(warning.category, UserWarning)))
    findings.report("warning", "warnings of the training", texts)
    if initial_weights(config) == "random" and config.data.options.get("root") and len(data.train) < FEW_IMAGES:
        fix = "Pretrained weights train better: backbone=efficientnet_lite0, or a recipe such as start/detector."
        findings.report("note", "random weights", [f"with only {len(data.train):,} training images"], fix)
    return _counted(model, data, sizes, budget, findings)


def check_budget(budget: Budget, config: Config) -> None:
    """Warns if the run is too short to learn anything, with the smallest sufficient budget; not for a complete model's
    `weights`, which a few steps may continue."""
    start = "random" if initial_weights(config) == "random" else "pretrained"
    least = _MIN_STEPS[start]
    if config.weights is None and budget.steps < least:
        section = config.trainer
        [key] = [name for name in ("max_steps", "max_images", "max_epochs") if getattr(section, name) is not None]
        needed = {
            "max_steps": least,
            "max_images": least * budget.images_per_step,
            "max_epochs": math.ceil(least / budget.steps_per_epoch),
        }[key]
        steps = "" if key == "max_steps" else f" is {counted(budget.steps, 'optimiser step')} of this data set and"
        warnings.warn(
            f"trainer.{key}={getattr(section, key)}{steps} is too little to learn from {start} weights, "
            f"which takes {least:,} steps or more. Fix: set trainer.{key}={needed} or keep the recipe's budget.",
            stacklevel=2,
        )
    warmup = config.optim.warmup_steps
    if warmup is not None and warmup >= budget.steps > 1:
        warnings.warn(
            f"optim.warmup_steps={warmup} covers all {budget.steps} optimiser steps: the learning rate "
            "never reaches its full value. Fix: set optim.warmup, a fraction of the training, such as 0.03.",
            stacklevel=2,
        )


def _counted(
    model: DenseModel, data: DataSplits, sizes: np.ndarray, budget: Budget, findings: Findings
) -> TrainingCost | None:
    height, width = np.median(sizes, axis=0).astype(int).tolist() if len(sizes) else (256, 256)
    size = data.padded_size(height, width)
    try:
        cost = model_cost(model, size)
    except Exception as error:  # from a third party's module
        findings.report("note", "the cost cannot be counted", [f"{type(error).__name__}: {error}"])
        return None
    return TrainingCost(size, cost.parameters, cost.trained_parameters, cost.multiply_adds, budget)
