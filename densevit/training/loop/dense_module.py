"""The LightningModule for training and validation."""

import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import pytorch_lightning as lightning
import torch
from torch import Tensor, distributed

from densevit import config as configs
from densevit.config import OptimSection
from densevit.errors import ConfigError, DensevitError
from densevit.evaluation.feature_probes import FeatureProbe
from densevit.inference.predictor import Predictor
from densevit.interfaces import Batch, Evaluator, LossContext, Method, Predictions, Targets
from densevit.layers.replacement import replace_layers
from densevit.losses.distributed import process_count
from densevit.model import DenseModel, Inference
from densevit.model.parameter_groups import ParameterRate, parameter_groups
from densevit.targets.run_length_masks import RunLengthMasks
from densevit.targets.types import TargetTypes
from densevit.training.loop.budget import Budget
from densevit.training.loop.checks import check_batch, check_classes, check_heads, check_losses
from densevit.training.loop.class_mapping import ClassMapping
from densevit.training.loop.data_module import DenseDataModule
from densevit.training.loop.evaluators import (
    METHOD,
    add_indices,
    build_evaluators,
    flat_metrics,
    join_processes,
    joined_indices,
)
from densevit.training.loop.method import Supervised, check_method
from densevit.training.loop.optim import Schedule, build_optimizer, group_options, learning_rate, rates_of
from densevit.training.loop.probes import features_of, fit_probes, predictions_of
from densevit.training.loop.sharding import ShardedStrategy, full_tensor, gather, scatter, shard_model
from densevit.training.loop.skipped_images import SKIPPED, SkippedImages, may_skip
from densevit.training.loop.trainer_steps import images_per_step, optimizer_steps
from densevit.training.loop.unused_parameters import freeze_unused, without_unused
from densevit.training.loop.validation_images import truths, validation_dataset, validation_loader
from densevit.training.loop.validation_loss import ValidationLoss, image_losses, method_losses, with_heads
from densevit.weights import checkpoint_io, model_file


class DenseModule(lightning.LightningModule):
    """Training and validation of a model, in any Lightning Trainer and with any DataLoader of batches (`Batch`).

    Metrics are logged as HEAD/METRIC after each validation, the same in all processes, in float64.

    optim: the config section `optim`, or a mapping of its keys. The schedule covers the Trainer's steps.
    evaluators: by head, after `Evaluator.prepare`. None: those of the model's config, by default named like the tasks.
    inference: windows and test-time augmentation in validation, by head. None: those of the predictor.
    method: the training method. None: supervised.

    budget: the budget of a run; None in a user's Trainer. rates: the learning rates of all parameters; None: those of
    `optim`. checkpoint_rates: the rates in the checkpoint of a resumed run, which may have trained other parameters.
    metrics: the metrics of the last validation. indices: the data set index of each of its images by image id, if the
    loader is densevit's. mappings: the mappings of heads whose classes are not the data's. terms: the losses of the
    last batch. host_batch: the last batch, on the CPU. gradient_norm: the norm of the last step; None if not computed.
    before_update: called with the optimiser before each update; it then handles non-finite losses.
    """

    def __init__(
        self,
        model: DenseModel | Predictor,
        optim: OptimSection | Mapping[str, Any] | None = None,
        evaluators: Mapping[str, Evaluator] | None = None,
        inference: Mapping[str, Inference] | None = None,
        method: Method | None = None,
    ) -> None:
        super().__init__()
        predictor = Predictor(model) if isinstance(model, DenseModel) else model
        self.model, self.config, self._predictor = predictor.model, predictor.config, predictor
        self.method = Supervised(self.model) if method is None else method
        check_method(self.method, self.model)
        if self.model.architecture is None or self.model.architecture.replace_layers:
            replace_layers(self)  # also those of the method
        self.optim: OptimSection = (
            optim if isinstance(optim, OptimSection) else configs.section("optim", optim or {}, "DenseModule")
        )
        self.evaluators = None if evaluators is None else dict(evaluators)
        self.inference = dict(predictor.inference if inference is None else inference)
        self.mappings: Mapping[str, ClassMapping] = {}
        self.indices: dict[int | str, int] = {}
        self.budget: Budget | None = None
        self.rates: Sequence[ParameterRate] | None = None
        self.checkpoint_rates: Sequence[ParameterRate] | None = None
        self.metrics: dict[str, float] = {}
        self._probes: dict[str, FeatureProbe] = {}  # of this validation
        self.terms: dict[str, Tensor] = {}
        self.host_batch: Batch | None = None
        self.before_update: Callable[[torch.optim.Optimizer], None] | None = None
        self.learning_rate = 0.0  # the largest of all groups, at the last step
        self.gradient_norm: Tensor | None = None  # before clipping
        self._steps = 0  # of the training, set with the schedule; 0 if it has no end
        self._step_targets: list[list[Targets]] | None = None  # of all batches of the optimiser step, if several
        self._context: LossContext | None = None  # of these batches
        self._checked: set[str] = set()  # the stages whose first batch is checked
        self._seen: dict[int, int] = {}  # number of images in this validation, by index of the loader
        self._skipped = {"training": SkippedImages(), "validation": SkippedImages()}
        self._random_states: list[Any] | None = None
        self._resumed = False

    def setup(self, stage: str) -> None:
        """With several processes, freezes unused parameters, for whose gradients they would wait. Stores the data
        options as the model's `training_data`, for predictions at the same size.

        Raises DataError or ConfigError if the data of a `DenseDataModule` does not match the model.
        """
        if stage == "fit" and self.trainer.world_size > 1 and self.budget is None:  # a run does it before
            freeze_unused(self.model, self.method)
        data = getattr(self.trainer, "datamodule", None)
        if isinstance(data, DenseDataModule):
            if stage == "fit":
                self.model.training_data = self.saved_model.training_data = data.data.section.model_dump()
            if self.budget is None:  # a run checks its data before
                for dataset in (data.data.train, data.data.val) if stage == "fit" else (data.data.val,):
                    check_classes(dataset, self.model, self.mappings)
                if stage == "fit" and self.method.needs_labels:
                    check_heads(data.data, self.model)

    def configure_model(self) -> None:
        """Shards the model for training with `fsdp2`. In an evaluation, each process has the entire model."""
        if self._trainer is None:  # in `load_from_checkpoint`
            return
        strategy = self.trainer.strategy
        if isinstance(strategy, ShardedStrategy) and self.trainer.state.fn == "fit":
            shard_model(self.model, strategy.device_mesh["data_parallel"])

    @property
    def saved_model(self) -> DenseModel:
        """The model that is validated and saved: `model`, or another one of the method, such as a teacher."""
        model: DenseModel = self.method.saved_model(self.model)
        return model

    @property
    def _logs(self) -> bool:
        """Whether Lightning logs losses and metrics; in a run, `StepMetrics` does."""
        return self.budget is None and bool(self.trainer.loggers)

    # ---- training ----

    @property
    def training_steps(self) -> int | None:
        """The number of optimiser steps of the training; None if it has no end."""
        return (self._steps or None) if self.budget is None else self.budget.steps

    def on_fit_start(self) -> None:
        self.model.train()  # `load` and `create_model` return models in evaluation mode, which Lightning would keep

    def training_step(self, batch: Batch, batch_index: int) -> dict[str, Any]:
        self._skipped["training"].add(batch)
        step = self.trainer.global_step
        progress = min(1.0, step / self._steps) if self._steps else 0.0
        for head in self.model.heads.values():
            head.set_progress(progress)
        context = LossContext.of_processes(step=step) if self._context is None else self._context
        context = replace(context, progress=progress, finite_costs=self.before_update is None)
        losses = self.method.training_step(self.model, batch, context)
        check_losses(losses, self.method)
        loss = torch.stack(list(losses.values())).sum()
        terms = self.terms = {name: term.detach() for name, term in losses.items()}
        size = len(batch["images"])
        self.log("train/loss", loss.detach(), prog_bar=True, logger=self._logs, batch_size=size)
        if self._logs:
            self.log_dict({f"train/{name}": term for name, term in terms.items()}, batch_size=size)
        return {"loss": loss, "terms": terms}

    def on_train_epoch_start(self) -> None:
        self._skipped["training"].reset()

    def on_train_epoch_end(self) -> None:
        if may_skip(self.trainer.train_dataloader):
            self._skipped["training"].report(f"epoch {self.trainer.current_epoch + 1}", self.device)

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        super().optimizer_step(*args, **kwargs)
        with torch.no_grad():
            self.method.after_step(self.model)

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        self.learning_rate = max(group["lr"] for group in optimizer.param_groups)

    def configure_gradient_clipping(
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        # Lightning's method rejects fused optimisers because of fp16's gradient scaler; with fp16 ours are not fused.
        self.gradient_norm = None
        if gradient_clip_val is not None and gradient_clip_algorithm == "value":
            torch.nn.utils.clip_grad_value_(self.parameters(), gradient_clip_val)
        elif gradient_clip_val is not None:
            self.gradient_norm = full_tensor(torch.nn.utils.clip_grad_norm_(self.parameters(), gradient_clip_val))
        if self.before_update is not None:
            self.before_update(optimizer)

    def configure_optimizers(self) -> Any:
        optimizer = build_optimizer(self.optim, self._groups(), self._lr(), self.trainer.precision != "16-mixed")
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

    def _apply_config_to_optimizer(self) -> None:
        """Replaces the learning rates, weight decays and momenta of a loaded optimiser by those of the config."""
        scheduler = self.trainer.lr_scheduler_configs[0].scheduler
        assert isinstance(scheduler, Schedule)
        scheduler.restart(self._groups())
        for loaded in self.trainer.optimizers[0].param_groups:
            loaded |= {key: value for key, value in group_options(self.optim).items() if key in loaded}

    # ---- validation ----

    def on_validation_start(self) -> None:
        # Lightning recommends sync_dist=True, but these metrics are the same in all processes.
        heads = "|".join(map(re.escape, [*self.model.heads, *(self.evaluators or ()), METHOD, SKIPPED]))
        warnings.filterwarnings("ignore", rf"It is recommended to use `self\.log\('({heads})/")
        gather(self.model)

    def on_validation_epoch_start(self) -> None:
        if self.evaluators is None:
            dataset = validation_dataset(self.trainer, self.model)
            self.evaluators = build_evaluators(self.model, self.config, dataset, self.method)
        for evaluator in self.evaluators.values():
            evaluator.reset()
        self._seen, self.indices = {}, {}
        self._probes = {name: one for name, one in self.evaluators.items() if isinstance(one, FeatureProbe)}
        if self._probes:
            self._fit_probes()
        self._skipped["validation"].reset()
        by_loss = {name for name, evaluator in self.evaluators.items() if isinstance(evaluator, ValidationLoss)}
        self._by_loss = [name for name in self.model.heads if name in by_loss]
        # Heads that are validated by their loss may not implement `predict`. A list, so that it is not a submodule.
        model = self.saved_model
        self._predicting = [with_heads(model, set(model.heads) - by_loss) if by_loss else model]

    def _fit_probes(self) -> None:
        """Fits the probes to the features of the training images, with the weights and precision of the validation."""
        module, precision = self.trainer.datamodule, self.trainer.precision_plugin  # type: ignore[attr-defined]  # set
        if not isinstance(module, DenseDataModule):
            raise ConfigError("probes: the training data is unknown. Fix: trainer.fit(module, DenseDataModule(...)).")

        def features(batch: Batch) -> Tensor:
            with precision.val_step_context():
                return features_of(self.saved_model, self.transfer_batch_to_device(batch, self.device, 0))

        loader = module.data.unaugmented_train_loader(self.trainer.global_rank, self.trainer.world_size)
        fit_probes(self._probes.values(), loader, features)

    def validation_step(self, batch: Batch, batch_index: int, dataloader_idx: int = 0) -> dict[str, list[Predictions]]:
        assert self.evaluators is not None
        self._skipped["validation"].add(batch)
        [model] = self._predicting
        inference = {name: options for name, options in self.inference.items() if name in model.heads}
        outputs = model.infer(batch, inference) if model.heads else {}
        for name, mapping in self.mappings.items():
            types = TargetTypes(self.model.target_types.get(name))
            outputs[name] = [mapping.applied(predictions, types) for predictions in outputs[name]]
        results = outputs | image_losses(self.saved_model, self._by_loss, batch) if self._by_loss else dict(outputs)
        if METHOD in self.evaluators:
            results[METHOD] = method_losses(self.method, self.saved_model, batch)
        if self._probes:
            results |= dict.fromkeys(self._probes, predictions_of(self.saved_model, batch))
        seen, loader = self._seen.get(dataloader_idx, 0), validation_loader(self.trainer, dataloader_idx)
        self._seen[dataloader_idx] = seen + len(batch["targets"])
        labels = bool(model.heads or self._probes)
        counted = [(i, x) for i, x in enumerate(truths(batch, loader, seen, labels)) if x is not None]
        targets = [batch["targets"][i] for i, _ in counted]
        add_indices(self.indices, [(t["image_id"], t["dataset_index"]) for t in targets if "dataset_index" in t])
        if counted:
            for name, evaluator in self.evaluators.items():
                try:
                    evaluator.update([results[name][i] for i, _ in counted], [truth for _, truth in counted])
                except DensevitError as error:
                    where = f"heads.{name}" if name in self.model.heads else name
                    raise type(error)(f"{where}: {error}") from None
        return outputs

    def on_validation_epoch_end(self) -> None:
        assert self.evaluators is not None
        scatter(self.model)
        for evaluator in self.evaluators.values():
            join_processes(evaluator)
        self.indices = joined_indices(self.indices)
        self.metrics = flat_metrics({name: evaluator.compute() for name, evaluator in self.evaluators.items()})
        if may_skip(self.trainer.val_dataloaders):
            where = f"validation at step {self.trainer.global_step}"
            skipped = self._skipped["validation"].report(where, self.device)
            self.metrics |= {f"{SKIPPED}/images": float(skipped)} if skipped else {}
        # On the CPU: MPS has no float64.
        values = {name: torch.tensor(value, dtype=torch.float64) for name, value in self.metrics.items()}
        self.log_dict(values, logger=self._logs)

    # ---- batches ----

    def on_before_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        stage = str(self.trainer.state.stage)
        if stage not in self._checked:
            check_batch(batch)
            self._checked.add(stage)
        self.host_batch = batch
        self._count_step(batch.get("step_targets"))
        return batch

    def _count_step(self, targets: list[list[Targets]] | None) -> None:
        """Computes the normalisers of the losses, once per optimiser step. targets: of each of its batches."""
        if targets is None or not isinstance(self.method, Supervised):  # another method may change the targets
            self._step_targets = self._context = None
        elif targets is not self._step_targets:
            self._step_targets = targets
            step, batches = self.trainer.global_step, self.trainer.accumulate_grad_batches
            self._context = self.model.loss_context(targets, step, batches)

    def transfer_batch_to_device(self, batch: Batch, device: torch.device, dataloader_idx: int) -> Batch:
        """Moves images, padding mask and targets to the device; `truth` stays on the CPU for the evaluators."""
        coded = isinstance(self.method, Supervised) and all(head.coded_masks for head in self.model.heads.values())
        kinds = Tensor if coded else Tensor | RunLengthMasks
        targets = []
        for target in batch["targets"]:
            moved = {
                k: _moved(v, device, kinds) for k, v in target.items() if k not in ("truth", "size", "original_size")
            }
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

    # ---- checkpoints: with the random state of each process, so that a resumed run continues exactly ----

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        state = {"cpu": torch.get_rng_state()}
        if self.device.type == "cuda":
            state["cuda"] = torch.cuda.get_rng_state(self.device)
        states: list[Any] = [state]
        if process_count() > 1:
            states = [None] * process_count()
            distributed.all_gather_object(states, state)
        checkpoint["random_state"] = states
        if self.config is not None:
            checkpoint["config"] = configs.dump(self.config)
        sections = self._predictor.sections
        if sections is not None and self.model.heads:  # `load` builds the model from them
            checkpoint[checkpoint_io.ENTRIES] = model_file.entries(self.saved_model, sections)
            names = (name for name, module in self.named_modules() if module is self.saved_model)
            checkpoint[checkpoint_io.SAVED_MODEL] = next(names)
        checkpoint["classes"] = {head: [c.name for c in classes] for head, classes in self.model.classes.items()}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        states = checkpoint.get("random_state")
        self._random_states = [states] if isinstance(states, dict) else states  # a dict in early checkpoints
        self._resumed = True
        self.saved_model.score_thresholds = model_file.score_thresholds(checkpoint.get(checkpoint_io.ENTRIES, {}))
        if self.checkpoint_rates is not None and self.rates is not None and checkpoint.get("optimizer_states"):
            [state] = checkpoint["optimizer_states"]
            before, after = parameter_groups(self.checkpoint_rates), parameter_groups(self.rates)
            checkpoint["optimizer_states"] = [without_unused(state, before, after)]

    def on_train_start(self) -> None:
        if self._resumed:
            self._apply_config_to_optimizer()
        states, self._random_states, self._resumed = self._random_states, None, False
        if states and self.trainer.global_rank < len(states):
            state = states[self.trainer.global_rank]
            torch.set_rng_state(state["cpu"])
            if "cuda" in state and self.device.type == "cuda":
                torch.cuda.set_rng_state(state["cuda"], self.device)


def _moved(value: Any, device: torch.device, kinds: Any) -> Any:
    return value.to(device, non_blocking=True) if isinstance(value, kinds) else value
