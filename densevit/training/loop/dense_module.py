"""The LightningModule: a training step from top to bottom, validation, and checkpoint entries."""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, cast

import pytorch_lightning as lightning
import torch
from pytorch_lightning.core.optimizer import LightningOptimizer
from pytorch_lightning.strategies import ModelParallelStrategy
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer

from densevit.config import OptimSection
from densevit.errors import head_names
from densevit.interfaces import Batch, Evaluator, LossContext, Losses, Method, OptimizerStep, Predictions
from densevit.model import DenseModel, InferenceModel, check_batch, nan_checked, unwrapped
from densevit.model.parameter_groups import ParameterRate
from densevit.training.loop.budget import Budget
from densevit.training.loop.checkpoint_entries import entries, restore, restore_random_state
from densevit.training.loop.ema import ExponentialMovingAverage, averaged_state
from densevit.training.loop.evaluator_factory import METHOD
from densevit.training.loop.finite_check import FiniteCheck
from densevit.training.loop.lr_schedule import Schedule
from densevit.training.loop.model_class_mapping import ClassMapping
from densevit.training.loop.module_trainer import budget_of, prepare_trainer, progress, resume_loader
from densevit.training.loop.optim import (
    build_optimizer,
    current_groups,
    learning_rate,
    optim_section,
    options_in_groups,
    rates_of,
)
from densevit.training.loop.sharding import gather, scatter, shard_model
from densevit.training.loop.skipped_images import SkippedImages, may_skip
from densevit.training.loop.step_record import StepRecord, check_losses, clip_gradients, moved, reduce_gradients
from densevit.training.loop.supervised_method import Supervised, check_method
from densevit.training.loop.unused_parameters import freeze_unused
from densevit.training.loop.validation_loop import Validation


class DenseModule(lightning.LightningModule):
    """Training and validation of a model, in any Lightning Trainer and with any DataLoader of batches (`Batch`).

    Metrics are logged as HEAD/METRIC after each validation, the same in all processes, in float64.

    optim: the config section `optim`, or a mapping of its keys. The schedule covers the Trainer's steps. evaluators:
    by head, after `Evaluator.prepare`; None: from the model's sections. method: the training method; None: supervised.
    mappings: the class mappings of heads whose classes are not the data's, in an evaluation.

    For a run of `fit`: budget: its length. rates: the learning rates of all parameters. ema: the average for validation
    and the saved model. record: the last optimiser step. validation: the last validation, with its metrics.

    Example:
        >>> densevit.DenseModule(densevit.load("runs/setr_vit"), optim={"lr": 1e-4}).optim.lr
        0.0001
    """

    def __init__(
        self,
        model: InferenceModel,
        optim: OptimSection | Mapping[str, Any] | None = None,
        evaluators: Mapping[str, Evaluator] | None = None,
        method: Method | None = None,
        *,
        mappings: Mapping[str, ClassMapping] | None = None,
        budget: Budget | None = None,
        rates: Sequence[ParameterRate] | None = None,
        ema: ExponentialMovingAverage | None = None,
    ) -> None:
        super().__init__()
        model = unwrapped(model, "DenseModule", trains=True)
        self.model, self.config = cast(DenseModel, model), model.config  # an exported file is only evaluated
        self.method = Supervised(self.model) if method is None else method
        check_method(self.method, self.model)
        self.optim, self.budget, self.ema = optim_section(optim), budget, ema
        for argument, by_head in (("evaluators", evaluators), ("mappings", mappings)):
            head_names(by_head or {}, {*model.heads, METHOD}, f"DenseModule: {argument}")
        self.validation = Validation(self.method, evaluators, mappings or {})
        self._rates = rates
        self.record: StepRecord
        self._length = budget or Budget(0, 0, 0)  # of the schedule, with a user's Trainer known at its start
        self._collected: list[Batch] = []  # from a user's DataLoader, until a step is complete
        self._checked: dict[tuple[str, int], Any] = {}  # by stage, the loader whose first batch is checked
        self._skipped_images = SkippedImages()
        self._finite_check = FiniteCheck()
        self._resumed: tuple[list[Any], int] | None = None  # random states and collected batches of the checkpoint

    # ---- an optimiser step ----

    def training_step(self, batches: OptimizerStep | Batch, index: int) -> dict[str, Tensor] | None:
        """An optimiser step from top to bottom (Lightning's manual optimisation)."""
        if (step := self._complete(batches)) is None:
            return None
        optimizer, schedule = cast(LightningOptimizer, self.optimizers()), cast(Schedule, self.lr_schedulers())
        self._set_progress(self.model)
        context = self._loss_context(step)  # the normalisers of all batches and processes

        @torch.enable_grad()  # a user's optimiser may call it without gradients
        def gradients() -> None:
            optimizer.zero_grad()
            self.record = StepRecord(self.trainer.global_step + 1, step.image_ids)
            for batch in step.batches:
                if len(step.batches) > 1:
                    reduce_gradients(self.trainer.strategy.model, on=batch is step.batches[-1])
                losses = self._losses(batch, context)
                self.record.add(losses, len(step.batches))
                self.manual_backward(torch.stack(list(losses.values())).sum() / len(step.batches))

        with torch.autocast(self.device.type, enabled=False):  # Lightning's autocast contains the step
            optimizer.step(gradients)  # calls `gradients`, then `on_before_optimizer_step`, then updates the weights
            with torch.no_grad():
                self.method.after_step(self.model)  # the method's averages, such as a teacher
                if self.ema is not None:
                    self.ema.update()
            schedule.step()
        self.log("train/loss", self.record.loss, prog_bar=True, logger=self.logs_metrics, batch_size=1)
        if self.logs_metrics:
            self.log_dict({f"train/{name}": term for name, term in self.record.terms.items()}, batch_size=1)
        return {"loss": self.record.loss}

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        """Clips and checks the gradients, which are already unscaled in fp16."""
        record, trainer = self.record, self.trainer
        record.learning_rate = max(group["lr"] for group in optimizer.param_groups)
        record.gradient_norm = clip_gradients(
            self, trainer.gradient_clip_val, by_value=trainer.gradient_clip_algorithm == "value"
        )
        self._finite_check.stop_unless_finite(optimizer, record, trainer.scaler)

    def _losses(self, batch: Batch, context: LossContext) -> Losses:
        self._skipped_images.add(batch)
        with self.trainer.precision_plugin.train_step_context():
            losses = self.method.training_step(self.model, batch, context)
        torch.clear_autocast_cache()  # as an outer autocast context does at its end
        check_losses(losses, self.method)
        return losses

    def _loss_context(self, step: OptimizerStep) -> LossContext:
        """The normalisers of the losses; counted here unless the method may change the targets."""
        if len(step.batches) > 1 and isinstance(self.method, Supervised):
            context = self.model.loss_context(step.targets, self.trainer.global_step)
        else:
            context = LossContext.across_processes(step=self.trainer.global_step)
        return replace(context, raise_on_non_finite=False)

    def _set_progress(self, model: DenseModel) -> None:
        """Gives the method and the heads of a model the share of the training that is done."""
        share = progress(self.trainer, self._length)
        self.method.set_progress(share)
        for head in model.heads.values():
            head.set_progress(share)

    def _complete(self, batches: OptimizerStep | Batch) -> OptimizerStep | None:
        """Collects the Trainer's `accumulate_grad_batches` from a user's DataLoader. None until a step is complete."""
        if isinstance(batches, OptimizerStep):
            return batches
        self._collected.append(batches)
        if len(self._collected) < self.trainer.accumulate_grad_batches and not self.trainer.is_last_batch:
            return None
        collected, self._collected = self._collected, []
        return OptimizerStep.of(*collected)

    @property
    def logs_metrics(self) -> bool:
        """Whether Lightning logs losses and metrics; in a run, `StepMetrics` does."""
        return self.budget is None and bool(self.trainer.loggers)

    def on_before_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        trainer = self.trainer
        loaders = trainer.train_dataloader if trainer.training else trainer.val_dataloaders
        key = (str(trainer.state.stage), dataloader_idx)
        if self._checked.get(key) is not loaders:
            check_batch(batch.batches[0] if isinstance(batch, OptimizerStep) else batch, self.model.channels)
            self._checked[key] = loaders
        return batch

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        return moved(batch, device, self.config is not None and self.config.trainer.channels_last)

    def configure_callbacks(self) -> list[lightning.Callback]:
        # Lightning's first hook of a run. It then refuses a Trainer's clipping and accumulation, which `training_step`
        # applies, if optimisation is manual, as it is from `setup` on.
        self.automatic_optimization = True
        return []

    def setup(self, stage: str) -> None:
        """Freezes unused parameters, for whose gradients processes would wait."""
        self._resumed, self.automatic_optimization = None, False  # see `training_step`
        prepare_trainer(self.trainer, stage)
        if stage == "fit" and self.trainer.world_size > 1 and self.budget is None:  # `fit` does it earlier
            freeze_unused(self.model, self.method)

    def configure_model(self) -> None:
        """Shards the model for training with `fsdp2`. In an evaluation, each process has the complete model."""
        strategy = self._trainer and self._trainer.strategy  # no trainer in `load_from_checkpoint`
        if isinstance(strategy, ModelParallelStrategy) and self.trainer.state.fn == "fit":
            shard_model(self.model, strategy.device_mesh["data_parallel"])

    def configure_optimizers(self) -> Any:
        self._length = self.budget or budget_of(self.trainer, self.optim)
        lr = learning_rate(self.optim, self._length.images_per_step)
        optimizer = build_optimizer(self.optim, self._groups(), lr, self.trainer.precision == "16-mixed")
        return {"optimizer": optimizer, "lr_scheduler": Schedule(optimizer, self.optim, self._length)}

    def _groups(self) -> list[dict[str, Any]]:
        lr = learning_rate(self.optim, self._length.images_per_step)
        rates = rates_of(self.model, self.optim, lr, self.method) if self._rates is None else self._rates
        return current_groups(rates, self.model, self.method)

    @property
    def training_steps(self) -> int | None:
        """The number of optimiser steps; None if training has no end."""
        return self._length.steps if self.budget is not None or self._length.steps > 1 else None

    @property
    def eval_model(self) -> DenseModel:
        """The validated and saved model: `model`, or a model of the method, such as a teacher."""
        return cast(DenseModel, self.method.eval_model(self.model))

    def on_fit_start(self) -> None:
        warnings.filterwarnings("ignore", "Using ModelCheckpoint with manual optimization")  # it saves after the step
        self.model.train()  # Lightning would keep the evaluation mode of `load` and `create_model`
        self._finite_check, self._collected = FiniteCheck(), []
        if self.ema is not None:
            self.ema.start(averaged_state(self.model, self.method))

    def on_train_start(self) -> None:
        if self._resumed is None:
            return
        (states, collected), self._resumed = self._resumed, None
        self._collected = resume_loader(self.trainer, collected)
        cast(Schedule, self.lr_schedulers()).restart(self._groups(), options_in_groups(self.trainer.optimizers[0]))
        restore_random_state(states, self.trainer.global_rank, self.device)

    def on_train_batch_start(self, batch: OptimizerStep, batch_idx: int) -> None:
        wrapper = self.trainer.strategy.model
        if isinstance(wrapper, DistributedDataParallel):  # manual optimisation turns it off
            wrapper.require_forward_param_sync = True  # all processes get rank 0's running statistics

    def on_train_epoch_end(self) -> None:
        if may_skip(self.trainer.train_dataloader):
            self._skipped_images.report(f"epoch {self.trainer.current_epoch + 1}", self.device)

    def on_train_end(self) -> None:
        self._finite_check.read()
        if self.ema is not None:
            self.ema.use()

    # ---- validation ----

    def on_validation_start(self) -> None:
        gather(self.model)
        self._finite_check.read()  # before the model is saved

    def on_validation_epoch_start(self) -> None:
        if self.ema is not None and self.trainer.state.fn == "fit":
            self.ema.use()
        self._set_progress(self.eval_model)
        self.validation.start(self.trainer, self.eval_model)

    def validation_step(self, batch: Batch, index: int, dataloader_idx: int = 0) -> dict[str, list[Predictions]]:
        with nan_checked(self.validation.predicting):
            return self.validation.add(self.trainer, batch, dataloader_idx)

    def on_validation_epoch_end(self) -> None:
        scatter(self.model)
        # Lightning recommends sync_dist=True, but these metrics are the same in all processes.
        warnings.filterwarnings("ignore", r"It is recommended to use `self\.log\(")
        # On the CPU: MPS has no float64.
        values = {k: torch.tensor(v, dtype=torch.float64) for k, v in self.validation.finish(self.trainer).items()}
        self.log_dict(values, logger=self.logs_metrics)

    def on_validation_end(self) -> None:
        if self.ema is not None:
            self.ema.put_back()  # after the callbacks, which save the averaged model

    # ---- checkpoints: with each process's random state, so that a resumed run continues exactly ----

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self._finite_check.read()
        if self.ema is not None:
            self.ema.save(checkpoint)
        prefix = next(name for name, module in self.named_modules() if module is self.eval_model)
        checkpoint |= entries(self.eval_model, prefix, self.device)
        checkpoint["collected_batches"] = len(self._collected)
        checkpoint["trained"] = self.budget and self.budget.state(self.trainer.global_step)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        source = str(getattr(self._trainer, "ckpt_path", None) or "The checkpoint")
        restore(checkpoint, source, self.eval_model, self.budget)
        if self.ema is not None:
            self.ema.load(checkpoint)
        self._resumed = checkpoint["random_state"], checkpoint.get("collected_batches", 0)
