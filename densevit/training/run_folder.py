"""What a run leaves behind: checkpoints, the best model, its metrics, pictures and a report."""

import os
import signal
from pathlib import Path
from types import FrameType
from typing import Any

import pytorch_lightning as lightning

from densevit.errors import ConfigError
from densevit.evaluation import metrics_file
from densevit.evaluation.tables_file import write_tables
from densevit.training.best_epoch import BestEpoch
from densevit.training.budget import Budget
from densevit.training.evaluation import Evaluation
from densevit.training.task import DenseTask
from densevit.weights import model_file

_STEPS_BETWEEN_CHECKPOINTS = 500


class Stopped(Exception):  # noqa: N818  # not an error
    """Ctrl-C came, and the checkpoint is written."""


def choose(name: str, wanted: Path | None) -> Path:
    """The run's folder: the one that was asked for, which has to be empty, or the next free `runs/NAME`.

    The processes of one training agree on it through the environment.
    """
    if int(os.environ.get("LOCAL_RANK", "0")) > 0 and "DENSEVIT_RUN_DIR" in os.environ:
        return Path(os.environ["DENSEVIT_RUN_DIR"])
    if wanted is None:
        base = Path("runs") / name
        wanted, number = base, 2
        while wanted.exists():
            wanted, number = base.with_name(f"{base.name}-{number}"), number + 1
    elif wanted.exists() and (not wanted.is_dir() or any(wanted.iterdir())):
        raise ConfigError(
            f"--run-dir {wanted}: is not empty. Name a new folder, or go on with `train --resume {wanted}`."
        )
    wanted.mkdir(parents=True, exist_ok=True)
    os.environ["DENSEVIT_RUN_DIR"] = str(wanted.resolve())
    return wanted


class RunFolder(lightning.Callback):
    """Writes `checkpoints/last.ckpt`; when validation says so, `best.ckpt`, `model.safetensors`, metrics and tables.

    Stands after the callback that averages weights: what validation used is saved as the model.

    checkpoint_every: optimiser steps from one `last.ckpt` to the next besides those after validations; None: one at the
    end of an epoch where the last is long ago.
    """

    budget: Budget

    def __init__(
        self,
        folder: Path,
        evaluation: Evaluation,
        monitor: str | None = None,
        checkpoint_every: int | None = None,
    ) -> None:
        self.folder, self.evaluation = folder, evaluation
        self.best_epoch, self.checkpoint_every = BestEpoch(evaluation.evaluators, monitor), checkpoint_every
        self._improved = self._interrupted = self._stopping = False
        self._seen_step = -1
        self._saved_step = 0
        self._previous_handler: Any = None

    # ---- checkpoints ----

    def setup(self, trainer: lightning.Trainer, task: lightning.LightningModule, stage: str) -> None:
        assert isinstance(task, DenseTask)
        if stage == "fit":
            self.budget = task.budget(trainer.world_size)

    def on_train_start(self, trainer: lightning.Trainer, task: lightning.LightningModule) -> None:
        self._seen_step = self._saved_step = trainer.global_step

    def on_train_batch_end(self, trainer: lightning.Trainer, task: lightning.LightningModule, *_: Any) -> None:
        step = trainer.global_step
        if step == self._seen_step:  # gradients are being accumulated
            return
        self._seen_step = step
        # At the end of an epoch and before a validation the checkpoint waits: Lightning cannot resume in between.
        if trainer.is_last_batch or self.budget.validates_after(step):
            return
        if self._interrupted or (self.checkpoint_every and step % self.checkpoint_every == 0):
            self._save(trainer, "last")
            self._stopping = self._interrupted

    def on_train_batch_start(self, trainer: lightning.Trainer, task: lightning.LightningModule, *_: Any) -> None:
        if self._stopping:  # only here has the step that was saved been logged
            raise Stopped

    def on_validation_end(self, trainer: lightning.Trainer, task: lightning.LightningModule) -> None:
        if trainer.state.fn != "fit":
            return
        if self._improved:
            self._save(trainer, "best")
        self._improved = False
        if not trainer.is_last_batch:
            self._save(trainer, "last")
            self._stopping = self._interrupted

    def on_train_epoch_end(self, trainer: lightning.Trainer, task: lightning.LightningModule) -> None:
        if not trainer.is_last_batch:  # the budget ends in the middle of an epoch: saved after validation
            return
        step = trainer.global_step
        due = step - self._saved_step >= (self.checkpoint_every or _STEPS_BETWEEN_CHECKPOINTS)
        if due or self._interrupted or self.budget.validates_after(step):
            self._save(trainer, "last")
        if self._interrupted and step < self.budget.steps:
            raise Stopped

    def _save(self, trainer: lightning.Trainer, name: str) -> None:
        path = self.folder / "checkpoints" / f"{name}.ckpt"
        unfinished = path.with_suffix(".partial")
        trainer.save_checkpoint(unfinished)
        if trainer.is_global_zero:
            unfinished.replace(path)
        if name == "last":
            self._saved_step = trainer.global_step

    # ---- the best ----

    @property
    def best(self) -> dict[str, float] | None:
        """The metrics by which the best epoch was chosen, of that epoch; None before the first validation."""
        return self.best_epoch.best

    def on_validation_epoch_end(self, trainer: lightning.Trainer, task: lightning.LightningModule) -> None:
        assert isinstance(task, DenseTask)
        if not self.best_epoch.improves(self.evaluation.metrics):
            return
        self._improved = True
        if trainer.is_global_zero:
            model_file.save(task.model, self.folder / "model.safetensors")
            metrics_file.write(self.evaluation.metrics, self.folder / "metrics.json")
            write_tables(self.evaluation.evaluators, self.folder)

    def state_dict(self) -> dict[str, Any]:
        return self.best_epoch.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.best_epoch.load_state_dict(state)

    # ---- Ctrl-C ----

    def on_fit_start(self, trainer: lightning.Trainer, task: lightning.LightningModule) -> None:
        try:
            self._previous_handler = signal.signal(signal.SIGINT, self._on_interrupt)
        except ValueError:  # not the main thread: whoever runs us handles signals
            self._previous_handler = None

    def _on_interrupt(self, number: int, frame: FrameType | None) -> None:
        if self._interrupted:  # a second Ctrl-C means now
            raise KeyboardInterrupt
        self._interrupted = True
        print(
            "\nStopping after this step, or after the validation that is under way. Ctrl-C again stops at once.",
            flush=True,
        )

    def teardown(self, trainer: lightning.Trainer, task: lightning.LightningModule, stage: str) -> None:
        if self._previous_handler is not None:
            signal.signal(signal.SIGINT, self._previous_handler)
            self._previous_handler = None
