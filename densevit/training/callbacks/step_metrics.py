"""Logging of the losses and the learning rate."""

from typing import Any

import pytorch_lightning as lightning
import torch

from densevit.losses.distributed import mean_over_processes


class StepMetrics(lightning.Callback):
    """Logs each `log_every_n_steps`-th optimiser step: the loss and its terms, the mean of all processes, and the rate.

    Stands before the callback that saves, so that a checkpoint's own step is written when the checkpoint is. Lightning
    logs after all callbacks, and a run killed in between would lack that row for good.
    """

    def __init__(self) -> None:
        self._seen_step = -1

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        self._seen_step = trainer.global_step

    def on_train_batch_end(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, outputs: Any, *_: Any
    ) -> None:
        step = trainer.global_step
        stepped, self._seen_step = step != self._seen_step, step
        if not stepped or step % trainer.log_every_n_steps:  # type: ignore[attr-defined]  # set by a connector
            return
        terms = {"loss": outputs["loss"], **outputs["terms"]}
        values = mean_over_processes(torch.stack([value.float() for value in terms.values()])).tolist()
        metrics = {f"train/{name}": value for name, value in zip(terms, values, strict=True)}
        metrics |= {"train/lr": pl_module.learning_rate, "epoch": trainer.current_epoch}
        for logger in trainer.loggers:
            logger.log_metrics(metrics, step - 1)
