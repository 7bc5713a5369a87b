"""Logging of losses, the learning rate and the metrics."""

import math
from typing import Any

import pytorch_lightning as lightning
import torch

from densevit.losses.distributed import mean_over_processes
from densevit.training.callbacks.non_finite import NonFinite
from densevit.training.dense_module import DenseModule


class StepMetrics(lightning.Callback):
    """Logs every `log_every_n_steps`-th optimiser step: the loss and its terms, averaged over processes, the rate,
    and the skipped steps if `non_finite` skips them; and after each validation the metrics that are defined.

    It must precede the checkpointing callback, so that the row of a checkpoint's step is written before the checkpoint.
    Lightning itself logs after all callbacks, and a run killed in between would lose that row.
    """

    def __init__(self, non_finite: NonFinite) -> None:
        self.non_finite = non_finite
        self._last_step = -1

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        self._last_step = trainer.global_step

    def on_train_batch_end(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, outputs: Any, *_: Any
    ) -> None:
        step = trainer.global_step
        stepped, self._last_step = step != self._last_step, step
        if not stepped or step % trainer.log_every_n_steps:  # type: ignore[attr-defined]  # set by a connector
            return
        terms = {"loss": outputs["loss"], **outputs["terms"]}
        values = mean_over_processes(torch.stack([value.float() for value in terms.values()])).tolist()
        metrics = {f"train/{name}": value for name, value in zip(terms, values, strict=True)}
        metrics |= {"train/lr": pl_module.learning_rate, "epoch": trainer.current_epoch}
        if self.non_finite.skip:
            metrics["train/skipped_steps"] = self.non_finite.skipped
        for logger in trainer.loggers:
            logger.log_metrics(metrics, step - 1)

    def on_validation_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        assert isinstance(pl_module, DenseModule)
        defined = {name: value for name, value in pl_module.metrics.items() if not math.isnan(value)}
        for logger in trainer.loggers:  # with the number of steps before it; Lightning's own would be one less
            logger.log_metrics({"epoch": trainer.current_epoch, **defined}, trainer.global_step)
