"""Reports of what a training waits for: cores, the data, other processes."""

from typing import Any

import pytorch_lightning as lightning

from densevit.training.loop.busy_cores import BusyCores
from densevit.training.loop.peers import Peers
from densevit.training.loop.stall import StallReports


class Waiting(lightning.Callback):
    """Warns of steps that are slow because other programs use the cores, reports steps that do not finish, and knows
    the processes that others wait for, to name one that has ended (`peers.watching`).

    stall_after: the seconds without a finished step until a report; None: no report.
    """

    def __init__(self, stall_after: float | None = None) -> None:
        self.cores, self.peers = BusyCores(), Peers()
        self.stalls = None if stall_after is None else StallReports(stall_after)

    def setup(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, stage: str) -> None:
        self.peers.exchange(trainer)

    def on_fit_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        if self.stalls is not None:
            self.stalls.start(trainer)

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        self.cores.start(trainer)

    def on_train_batch_start(self, *_: Any) -> None:
        self.cores.begin_batch()

    def on_train_batch_end(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, outputs: Any, batch: Any, *_: Any
    ) -> None:
        self.cores.end_batch(trainer, batch)
        self._step_finished(trainer)

    def on_validation_batch_end(self, trainer: lightning.Trainer, *_: Any) -> None:
        self._step_finished(trainer)

    def on_validation_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        self._step_finished(trainer)

    def on_train_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        self._stop()

    def on_exception(self, *_: Any) -> None:
        self._stop()

    def teardown(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, stage: str) -> None:
        self._stop()

    def _step_finished(self, trainer: lightning.Trainer) -> None:
        if self.stalls is not None:
            self.stalls.step_finished(trainer)

    def _stop(self) -> None:
        if self.stalls is not None:
            self.stalls.stop()
