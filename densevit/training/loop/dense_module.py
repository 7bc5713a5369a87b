"""The LightningModule for training and validation; `step.py` has its training."""

import re
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, distributed

from densevit import config as configs
from densevit.config import OptimSection
from densevit.errors import ConfigError, DensevitError
from densevit.evaluation.feature_probes import FeatureProbe
from densevit.inference.predictor import Predictor
from densevit.interfaces import Batch, Evaluator, Method, Predictions
from densevit.layers.fast.replacement import replace_layers
from densevit.losses.distributed import process_count
from densevit.model import DenseModel, Inference
from densevit.model.parameter_groups import ParameterRate, parameter_groups
from densevit.targets.types import TargetTypes
from densevit.training.loop.budget import Budget
from densevit.training.loop.class_mapping import ClassMapping
from densevit.training.loop.data_checks import check_channels, check_classes, check_heads
from densevit.training.loop.data_module import DenseDataModule
from densevit.training.loop.ema import ExponentialMovingAverage
from densevit.training.loop.evaluators import (
    METHOD,
    add_indices,
    build_evaluators,
    flat_metrics,
    join_processes,
    joined_indices,
)
from densevit.training.loop.finite_check import FiniteCheck
from densevit.training.loop.first_non_finite import random_state, restore_random_state
from densevit.training.loop.lr_schedule import Schedule
from densevit.training.loop.method import check_method
from densevit.training.loop.optim import options_in_groups
from densevit.training.loop.probes import features_of, fit_probes, predictions_of
from densevit.training.loop.sharding import ShardedStrategy, gather, scatter, shard_model
from densevit.training.loop.skipped_images import SKIPPED, SkippedImages, may_skip
from densevit.training.loop.step import TrainingStep
from densevit.training.loop.unused_parameters import freeze_unused, without_unused
from densevit.training.loop.validation_images import truths, validation_dataset, validation_loader
from densevit.training.loop.validation_loss import ValidationLoss, image_losses, method_losses
from densevit.weights import checkpoint_io, model_file
from densevit.weights.state import FORMAT, check_format

_SKIPPED_STEPS = "skipped_steps"  # in a checkpoint


class DenseModule(TrainingStep):
    """Training and validation of a model, in any Lightning Trainer and with any DataLoader of batches (`Batch`).

    Metrics are logged as HEAD/METRIC after each validation, the same in all processes, in float64.

    optim: the config section `optim`, or a mapping of its keys. The schedule covers the Trainer's steps.
    evaluators: the evaluator of each head, after `Evaluator.prepare`. None: those of the model's config, by default
    named like the tasks.
    inference: windows and test-time augmentation in validation, by head. None: those of the predictor.
    method: the training method. None: supervised.

    mappings: the class mappings of heads whose classes are not the data's, by head; for an evaluation.

    The rest is for a run of `fit`. budget: its length. rates: the learning rates of all parameters. checkpoint_rates:
    those of the run's checkpoint, which may have trained other parameters. ema: validation and the saved model use its
    average. finite_check: stops at non-finite values or skips the step.

    After a validation, metrics has its metrics, and indices the data set index of each of its images by image id, if
    the loader is densevit's.
    """

    def __init__(
        self,
        model: DenseModel | Predictor,
        optim: OptimSection | Mapping[str, Any] | None = None,
        evaluators: Mapping[str, Evaluator] | None = None,
        inference: Mapping[str, Inference] | None = None,
        method: Method | None = None,
        *,
        mappings: Mapping[str, ClassMapping] | None = None,
        budget: Budget | None = None,
        rates: Sequence[ParameterRate] | None = None,
        checkpoint_rates: Sequence[ParameterRate] | None = None,
        ema: ExponentialMovingAverage | None = None,
        finite_check: FiniteCheck | None = None,
    ) -> None:
        predictor = Predictor(model) if isinstance(model, DenseModel) else model
        super().__init__(predictor.model, predictor.config, method, optim, budget, rates, ema, finite_check)
        self._predictor = predictor
        check_method(self.method, self.model)
        if self.model.architecture is None or self.model.architecture.replace_layers:
            replace_layers(self)  # also those of the method
        self.evaluators = None if evaluators is None else dict(evaluators)
        self.inference = dict(predictor.inference if inference is None else inference)
        self.mappings: Mapping[str, ClassMapping] = mappings or {}
        self.indices: dict[int | str, int] = {}
        self.metrics: dict[str, float] = {}
        self._probes: dict[str, FeatureProbe] = {}  # of this validation
        self._seen: dict[int, int] = {}  # number of images in this validation, by index of the loader
        self._skipped_in_validation = SkippedImages()
        self._checkpoint_rates = checkpoint_rates
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
                    check_channels(dataset, self.model)
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

    # ---- validation ----

    def on_validation_start(self) -> None:
        # Lightning recommends sync_dist=True, but these metrics are the same in all processes.
        heads = "|".join(map(re.escape, [*self.model.heads, *(self.evaluators or ()), METHOD, SKIPPED]))
        warnings.filterwarnings("ignore", rf"It is recommended to use `self\.log\('({heads})/")
        gather(self.model)
        if self.finite_check is not None:
            self.finite_check.read()  # of all steps, before the model is saved

    def on_validation_epoch_start(self) -> None:
        if self.ema is not None and self.trainer.state.fn == "fit":
            self.ema.use()
        if self.evaluators is None:
            dataset = validation_dataset(self.trainer, self.model)
            self.evaluators = build_evaluators(self.model, self.config, dataset, self.method)
        for evaluator in self.evaluators.values():
            evaluator.reset()
        self._seen, self.indices = {}, {}
        self._probes = {name: one for name, one in self.evaluators.items() if isinstance(one, FeatureProbe)}
        if self._probes:
            self._fit_probes()
        self._skipped_in_validation.reset()
        by_loss = {name for name, evaluator in self.evaluators.items() if isinstance(evaluator, ValidationLoss)}
        self._by_loss = [name for name in self.model.heads if name in by_loss]
        # Heads that are validated by their loss may not implement `predict`. A list, so that it is not a submodule.
        model = self.saved_model
        self._predicting = [model.with_heads(set(model.heads) - by_loss) if by_loss else model]

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
        self._skipped_in_validation.add(batch)
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
            skipped = self._skipped_in_validation.report(where, self.device)
            self.metrics |= {f"{SKIPPED}/images": float(skipped)} if skipped else {}
        # On the CPU: MPS has no float64.
        values = {name: torch.tensor(value, dtype=torch.float64) for name, value in self.metrics.items()}
        self.log_dict(values, logger=self._logs)

    def on_validation_end(self) -> None:
        if self.ema is not None:
            self.ema.put_back()  # after the callbacks, which save the model with the average

    # ---- checkpoints: with the random state of each process, so that a resumed run continues exactly ----

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        if self.finite_check is not None:
            self.finite_check.read()  # of all steps
            checkpoint[_SKIPPED_STEPS] = self.finite_check.skipped
        if self.ema is not None:
            self.ema.save(checkpoint)
        state = random_state(self.device)
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
        checkpoint["format_version"] = FORMAT
        checkpoint["classes"] = {head: [c.name for c in classes] for head, classes in self.model.classes.items()}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        source = getattr(self._trainer, "ckpt_path", None) or "The checkpoint"
        check_format(checkpoint.get("format_version", "1"), str(source))  # format 1 has no number
        if self.finite_check is not None:
            self.finite_check.resume(int(checkpoint.get(_SKIPPED_STEPS, 0)))
        if self.ema is not None:
            self.ema.load(checkpoint)
        self._random_states = checkpoint["random_state"]
        self._resumed = True
        self.saved_model.score_thresholds = model_file.score_thresholds(checkpoint.get(checkpoint_io.ENTRIES, {}))
        if self._checkpoint_rates is not None and self.rates is not None and checkpoint.get("optimizer_states"):
            [state] = checkpoint["optimizer_states"]
            before, after = parameter_groups(self._checkpoint_rates), parameter_groups(self.rates)
            checkpoint["optimizer_states"] = [without_unused(state, before, after)]

    def on_train_start(self) -> None:
        if self._resumed:
            self._apply_config_to_optimizer()
        states, self._random_states, self._resumed = self._random_states, None, False
        if states and self.trainer.global_rank < len(states):
            restore_random_state(states[self.trainer.global_rank], self.device)

    def _apply_config_to_optimizer(self) -> None:
        """Replaces the learning rates, weight decays and options of a loaded optimiser by those of the config."""
        scheduler = self.trainer.lr_scheduler_configs[0].scheduler
        assert isinstance(scheduler, Schedule)
        scheduler.restart(self._groups())
        [optimizer] = self.trainer.optimizers
        for loaded in optimizer.param_groups:
            loaded |= {key: value for key, value in options_in_groups(optimizer).items() if key in loaded}
