"""Optuna's pruning of runs."""

from typing import TYPE_CHECKING, Any

import pytorch_lightning as lightning

from densevit.errors import ConfigError, did_you_mean

if TYPE_CHECKING:
    import optuna


class Pruning(lightning.Callback):
    """Reports a metric after each validation, and ends the run by `TrialPruned` if the study's pruner says so.

    monitor: "HEAD/METRIC", as in metrics.json. The step of a report is the optimiser step. `fit` raises TrialPruned;
    the run folder has the model of the best epoch so far.
    """

    def __init__(self, trial: "optuna.Trial", monitor: str) -> None:
        self.trial, self.monitor = trial, monitor

    def on_validation_end(self, trainer: lightning.Trainer, pl_module: Any) -> None:
        if trainer.sanity_checking:
            return
        if self.monitor not in (metrics := trainer.callback_metrics):
            raise ConfigError(f"Pruning: {self.monitor!r} is not a metric.{did_you_mean(self.monitor, [*metrics])}")
        self.trial.report(float(metrics[self.monitor]), trainer.global_step)
        if self.trial.should_prune():
            import optuna

            raise optuna.TrialPruned(f"{self.monitor} is {float(metrics[self.monitor]):.4g}.")
