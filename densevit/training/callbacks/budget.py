"""The training budget as Lightning sees it."""

from collections.abc import Callable

import pytorch_lightning as lightning

from densevit.training.budget import Budget

_LOGGED_STEPS = 20  # of a short training, at least
_NEVER = 1 << 62  # batches between two validations


class BudgetCallback(lightning.Callback):
    """Ends the training and starts validations as its `budget` says, which is known once the Trainer is set up.

    Validation runs inside the training loop, after the last step too, so that the best epoch is found and saved
    alike wherever the training ends.

    budget_of: the budget of so many processes.
    """

    budget: Budget

    def __init__(self, budget_of: Callable[[int], Budget]) -> None:
        self.budget_of = budget_of
        self._seen_step = -1

    def setup(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, stage: str) -> None:
        if stage == "fit":
            self.budget = self.budget_of(trainer.world_size)
            every = trainer.log_every_n_steps  # type: ignore[attr-defined]  # set by one of its connectors
            trainer.log_every_n_steps = min(every, max(1, self.budget.steps // _LOGGED_STEPS))  # type: ignore[attr-defined]

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        self._schedule(trainer)  # a resumed run asks whether it stopped at a validation

    def on_train_batch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, *_: object) -> None:
        self._schedule(trainer)

    def _schedule(self, trainer: lightning.Trainer) -> None:
        step = trainer.global_step
        stepped = step != self._seen_step  # not while gradients accumulate
        self._seen_step = step
        trainer.val_check_batch = 1 if stepped and self.budget.validates_after(step) else _NEVER
        # Not Lightning's own max_steps, with which a run that is resumed at the end of an epoch skips the next one.
        trainer.should_stop = trainer.should_stop or step >= self.budget.steps
