"""Applies the training budget in Lightning's loop: starts validations and ends training."""

from typing import Any

import pytorch_lightning as lightning

from densevit.training.loop.budget import Budget

_MIN_LOGGED_STEPS = 20  # in a short run
_NEVER = 1 << 62  # batches between two validations, more than in any run


class ValidationInterval(lightning.Callback):
    """Starts validations and ends training according to the budget.

    Validation runs inside the training loop, also after the last step, so that the best epoch is always selected and
    saved in the same way.
    """

    def __init__(self, budget: Budget) -> None:
        self.budget = budget

    def setup(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, stage: str) -> None:
        if stage == "fit":
            every = trainer.log_every_n_steps  # type: ignore[attr-defined]  # set by a connector
            trainer.log_every_n_steps = min(every, max(1, self.budget.steps // _MIN_LOGGED_STEPS))  # type: ignore[attr-defined]

    def on_train_batch_end(self, trainer: lightning.Trainer, *_: Any, **__: Any) -> None:
        step = trainer.global_step
        trainer.val_check_batch = 1 if self.budget.validates_after(step) else _NEVER
        # Lightning's max_steps is not used: a run resumed at the end of an epoch would skip the next one.
        trainer.should_stop = trainer.should_stop or step >= self.budget.steps

    on_train_start = on_train_batch_end  # a resumed run may have stopped at a validation
