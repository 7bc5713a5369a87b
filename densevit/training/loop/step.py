"""An optimiser step: what acts in it, in the order in which Lightning calls it.

For each batch of the step (`trainer.accumulate` batches, one by default):

1. `on_before_batch_transfer`: the check of the first batch, and the normalisers of the losses over all batches
2. `transfer_batch_to_device`
3. `on_train_batch_start`: what a repetition of the step needs is kept for the report of a non-finite value
4. `training_step`: forward pass and losses
5. `on_before_backward`: the loss is checked for finite values; then Lightning runs the backward pass

After the last batch of the step:

6. `on_before_optimizer_step`: the learning rate is noted
7. `configure_gradient_clipping`: clipping, then the check of losses and gradients for finite values, which stops the
   training or skips the update
8. `optimizer_step`, which contains 4 to 7: the update, then the averages: the method's, such as a teacher, and the EMA
9. Lightning sets the learning rates of the next step (`Schedule`)
10. `on_train_batch_end` of the callbacks, in the order of `run_callbacks` in `run/fit.py`: metrics, output, checkpoint

Lightning calls a hook of the callbacks before that of the module.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, cast

import pytorch_lightning as lightning
import torch
from torch import Tensor
from torch.optim import Optimizer

from densevit import config as configs
from densevit.config import Config, OptimSection
from densevit.config.plugin_checks import check_optimizer
from densevit.interfaces import Batch, LossContext, Method, Targets
from densevit.model import DenseModel
from densevit.model.parameter_groups import ParameterRate, parameter_groups
from densevit.training.loop.budget import Budget
from densevit.training.loop.data_checks import check_batch, check_losses
from densevit.training.loop.ema import ExponentialMovingAverage, averaged_state
from densevit.training.loop.finite_check import FiniteCheck, gradient_norm
from densevit.training.loop.lr_schedule import Schedule
from densevit.training.loop.method import Supervised
from densevit.training.loop.optim import build_optimizer, learning_rate, rates_of
from densevit.training.loop.sharding import full_tensor
from densevit.training.loop.skipped_images import SkippedImages, may_skip
from densevit.training.loop.trainer_steps import images_per_step, optimizer_steps


class TrainingStep(lightning.LightningModule):
    """The training of a `DenseModule`: Lightning's hooks in the order of this file's table.

    Callbacks read the following after a step. terms: the losses of the last batch. learning_rate: the largest of all
    parameter groups. gradient_norm: the norm of all gradients before clipping; None if it is not computed.
    """

    def __init__(
        self,
        model: DenseModel,
        config: Config | None,
        method: Method | None,
        optim: OptimSection | Mapping[str, Any] | None,
        budget: Budget | None,
        rates: Sequence[ParameterRate] | None,
        ema: ExponentialMovingAverage | None,
        finite_check: FiniteCheck | None,
    ) -> None:
        super().__init__()
        self.model, self.config = model, config
        self.method = Supervised(model) if method is None else method
        if not isinstance(optim, OptimSection):
            optim = cast(OptimSection, configs.section("optim", optim or {}, "DenseModule"))
            check_optimizer(optim)
        self.optim = optim
        self.budget, self.rates, self.ema, self.finite_check = budget, rates, ema, finite_check
        self.terms: dict[str, Tensor] = {}
        self.learning_rate = 0.0
        self.gradient_norm: Tensor | None = None
        self._steps = 0  # of the training, set with the schedule; 0 if it has no end
        self._host_batch: Batch | None = None  # the last batch, on the CPU
        self._step_targets: list[list[Targets]] | None = None  # of all batches of the optimiser step, if several
        self._context: LossContext | None = None  # of these batches
        self._checked: set[str] = set()  # the stages whose first batch is checked
        self._skipped_images = SkippedImages()

    @property
    def training_steps(self) -> int | None:
        """The number of optimiser steps of the training; None if it has no end."""
        return (self._steps or None) if self.budget is None else self.budget.steps

    @property
    def _logs(self) -> bool:
        """Whether Lightning logs losses and metrics; in a run, `StepMetrics` does."""
        return self.budget is None and bool(self.trainer.loggers)

    # ---- each batch ----

    def on_before_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        stage = str(self.trainer.state.stage)
        if stage not in self._checked:
            check_batch(batch, self.model.channels)
            self._checked.add(stage)
        self._host_batch = batch
        self._count_step(batch.get("step_targets"))
        return batch

    def _count_step(self, targets: list[list[Targets]] | None) -> None:
        """Computes the normalisers of the losses, once per optimiser step.

        targets: the targets of each of its batches.
        """
        if targets is None or not isinstance(self.method, Supervised):  # another method may change the targets
            self._step_targets = self._context = None
        elif targets is not self._step_targets:
            self._step_targets = targets
            step, batches = self.trainer.global_step, self.trainer.accumulate_grad_batches
            self._context = self.model.loss_context(targets, step, batches)

    def transfer_batch_to_device(self, batch: Batch, device: torch.device, dataloader_idx: int) -> Batch:
        """Moves images, padding mask and targets to the device. Masks stay run lengths on the CPU, which
        losses read, and `truth` stays there for the evaluators."""
        targets = []
        for target in batch["targets"]:
            moved = {k: _moved(v, device) for k, v in target.items() if k not in ("truth", "size", "original_size")}
            targets.append({**target, **moved})
        images, mask = (batch[key].to(device, non_blocking=True) for key in ("images", "padding_mask"))
        if self.config is not None and self.config.trainer.channels_last:
            images = images.contiguous(memory_format=torch.channels_last)
        moved_batch: Batch = {"images": images, "padding_mask": mask, "targets": targets}
        if "skipped" in batch:
            moved_batch["skipped"] = batch["skipped"]
        if "other_views" in batch:
            moved_batch["other_views"] = [
                self.transfer_batch_to_device(view, device, dataloader_idx) for view in batch["other_views"]
            ]
        return moved_batch

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        if self.finite_check is not None:
            self.finite_check.begin_batch(self._host_batch or batch)

    def training_step(self, batch: Batch, batch_index: int) -> dict[str, Any]:
        self._skipped_images.add(batch)
        step = self.trainer.global_step
        progress = min(1.0, step / self._steps) if self._steps else 0.0
        for head in self.model.heads.values():
            head.set_progress(progress)
        context = LossContext.of_processes(step=step) if self._context is None else self._context
        context = replace(context, progress=progress, finite_costs=self.finite_check is None)
        losses = self.method.training_step(self.model, batch, context)
        check_losses(losses, self.method)
        loss = torch.stack(list(losses.values())).sum()
        terms = self.terms = {name: term.detach() for name, term in losses.items()}
        size = len(batch["images"])
        self.log("train/loss", loss.detach(), prog_bar=True, logger=self._logs, batch_size=size)
        if self._logs:
            self.log_dict({f"train/{name}": term for name, term in terms.items()}, batch_size=size)
        return {"loss": loss, "terms": terms}

    def on_before_backward(self, loss: Tensor) -> None:
        if self.finite_check is not None:
            self.finite_check.add_loss(loss, self.terms)

    # ---- after the last batch of the step ----

    def optimizer_step(
        self, epoch: int, batch_idx: int, optimizer: Any, optimizer_closure: Callable[[], Any] | None = None
    ) -> None:
        """Runs the last batch of the step up to its backward pass (`optimizer_closure`), the two hooks that follow, and
        the update; then updates the averages."""
        super().optimizer_step(epoch, batch_idx, optimizer, optimizer_closure)
        with torch.no_grad():
            self.method.after_step(self.model)
            if self.ema is not None:
                self.ema.update()

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        self.learning_rate = max(group["lr"] for group in optimizer.param_groups)

    def configure_gradient_clipping(
        self,
        optimizer: Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        # Lightning's method rejects fused optimisers because of fp16's gradient scaler; with fp16 ours are not fused.
        self.gradient_norm = None
        if gradient_clip_val is not None and gradient_clip_algorithm == "value":
            torch.nn.utils.clip_grad_value_(self.parameters(), gradient_clip_val)
        elif gradient_clip_val is not None:
            self.gradient_norm = full_tensor(torch.nn.utils.clip_grad_norm_(self.parameters(), gradient_clip_val))
        if self.finite_check is not None:
            if self.gradient_norm is None:
                self.gradient_norm = gradient_norm(self)
            self.finite_check.stop_or_skip(optimizer, self.gradient_norm)

    # ---- the optimiser ----

    def configure_optimizers(self) -> Any:
        optimizer = build_optimizer(self.optim, self._groups(), self._lr(), self.trainer.precision == "16-mixed")
        steps = optimizer_steps(self.trainer, self.optim) if self.budget is None else self.budget.steps
        self._steps = steps if steps > 1 else 0
        scheduler = Schedule(optimizer, self.optim, steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def _groups(self) -> list[dict[str, Any]]:
        """Builds the parameter groups from the current parameters, by name: sharding replaces the parameters."""
        rates = rates_of(self.model, self.optim, self._lr(), self.method) if self.rates is None else self.rates
        parameters = {**dict(self.method.named_parameters("method")), **dict(self.model.named_parameters())}
        return parameter_groups([rate._replace(parameter=parameters[rate.name]) for rate in rates])

    def _lr(self) -> float:
        if self.budget is not None:
            return learning_rate(self.optim, self.budget.images_per_step)
        return learning_rate(self.optim, images_per_step(self.trainer) if self.optim.lr is None else 0)

    # ---- start and end of a training and of an epoch ----

    def on_fit_start(self) -> None:
        self.model.train()  # `load` and `create_model` return models in evaluation mode, which Lightning would keep
        if self.finite_check is not None:
            self.finite_check.start(self, self.model, self.method)
        if self.ema is not None:
            self.ema.start(averaged_state(self.model, self.method))

    def on_train_epoch_start(self) -> None:
        self._skipped_images.reset()

    def on_train_epoch_end(self) -> None:
        if may_skip(self.trainer.train_dataloader):
            self._skipped_images.report(f"epoch {self.trainer.current_epoch + 1}", self.device)

    def on_train_end(self) -> None:
        if self.finite_check is not None:
            self.finite_check.finish()
        if self.ema is not None:
            self.ema.use()


def _moved(value: Any, device: torch.device) -> Any:
    return value.to(device, non_blocking=True) if isinstance(value, Tensor) else value
