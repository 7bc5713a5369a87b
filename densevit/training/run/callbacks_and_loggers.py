"""Callbacks and loggers from the config or from the caller of `fit`."""

import io
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytorch_lightning as lightning
import torch
from pytorch_lightning.loggers import Logger, TensorBoardLogger

from densevit import registry
from densevit.config import PluginSection, TrainerSection, named_classes
from densevit.errors import ConfigError, did_you_mean, one_line
from densevit.training.run.metrics_csv import MetricsCsv


def build_callbacks(section: TrainerSection, more: Sequence[lightning.Callback] = ()) -> list[lightning.Callback]:
    """Builds the config's callbacks and appends the caller's."""
    built = (_built("callback", named, f"trainer.callbacks.{index}") for index, named in enumerate(section.callbacks))
    return [*built, *more]


def check_callbacks(callbacks: Iterable[lightning.Callback], metrics: Iterable[str]) -> None:
    """Raises ConfigError for a callback that monitors an unknown metric, or whose state cannot be loaded safely."""
    for callback in callbacks:
        name = type(callback).__name__
        monitor = getattr(callback, "monitor", None)
        names = [*metrics, "train/loss", "epoch", "step"]
        bases = {base.__name__ for base in type(callback).__mro__}  # also of lightning.pytorch
        if bases & {"EarlyStopping", "ModelCheckpoint"} and monitor is not None and monitor not in names:
            raise ConfigError(
                f"trainer.callbacks: {name} monitors {monitor!r}, which is not a metric.{did_you_mean(monitor, names)}"
            )
        if type(callback).state_dict is not lightning.Callback.state_dict:
            memory = io.BytesIO()
            try:
                torch.save(callback.state_dict(), memory)
                memory.seek(0)
                torch.load(memory, weights_only=True)  # as when resuming
            except Exception as error:  # a plugin's state may raise anything
                raise ConfigError(
                    f"trainer.callbacks: the state_dict of {name} cannot be read back from a checkpoint "
                    f"({one_line(error)}). Fix: use tensors, numbers, strings, lists and dicts only."
                ) from error


def build_loggers(section: TrainerSection, folder: Path, more: Sequence[Logger] = ()) -> list[Logger]:
    """Builds the logger of metrics.csv and the config's loggers, and appends the caller's."""
    loggers: list[Logger] = [MetricsCsv(folder / "metrics.csv")]
    names = [named.name for named in section.loggers or ()]
    if section.loggers is None or "tensorboard" in names:
        # Without the extra `tensorboard`, `check_plugins` raises for a config that names it.
        with suppress(ModuleNotFoundError):
            loggers.append(TensorBoard(folder, name="", version="", default_hp_metric=False))
    built = (
        _built("logger", named, f"trainer.loggers.{index}", str(folder))
        for index, named in enumerate(section.loggers or ())
        if named.name not in named_classes.BUILT_IN_LOGGERS
    )
    return [*loggers, *built, *more]


def _built(noun: str, named: PluginSection, where: str, folder: str = ".") -> Any:
    """A callback or logger of the config. folder: the run folder."""
    options = named_classes.check(noun, named, where, folder)
    return registry.construct(named_classes.load(noun, named.name), named.name, options=options, where=where)


class TensorBoard(TensorBoardLogger):
    """Writes `events.*`, without Lightning's `hparams.yaml`, which repeats `config.yaml`."""

    def save(self) -> None:
        self.experiment.flush()
