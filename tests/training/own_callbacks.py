"""Callbacks and loggers of the tests. Tests import them where they need them: Lightning takes seconds to import."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytorch_lightning as lightning
from pytorch_lightning.loggers import CSVLogger


class Quit(lightning.Callback):
    """Ends the process without a word before the batch after this step."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_start(self, trainer: lightning.Trainer, *_: Any) -> None:
        if trainer.global_step == self.step:
            os._exit(9)


class Noted(lightning.Callback):
    """Notes what `of(module, batch)` is at the end of each training batch."""

    def __init__(self, of: Callable[[Any, Any], Any]) -> None:
        self.of, self.found = of, []

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, *_: Any) -> None:
        self.found.append(self.of(pl_module, batch))


class Seen(lightning.Callback):
    """Notes what `callback_metrics` holds when a validation ends; its state is the number of validations."""

    def __init__(self, key: str = "detection/AP") -> None:
        self.key, self.count, self.values = key, 0, []

    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
        self.count += 1
        self.values.append(trainer.callback_metrics[self.key].item())

    def state_dict(self) -> dict[str, Any]:
        return {"count": self.count}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.count = state["count"]


class Unreadable(lightning.Callback):
    def state_dict(self) -> dict[str, Any]:
        return {"path": Path("x")}


class Hyperparameters(CSVLogger):
    """Keeps what it is given."""

    def log_hyperparams(self, params: Any = None, *_: Any) -> None:
        self.given = params
