"""The parts of a run, built and checked before anything is written."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pytorch_lightning as lightning
import torch
from pytorch_lightning.callbacks import ProgressBar as LightningBar
from rich import get_console

from densevit import config as configs
from densevit import registry
from densevit.config import Config
from densevit.data.data_splits import DataSplits
from densevit.interfaces import Evaluator, Method
from densevit.model import DenseModel
from densevit.model.parameter_groups import ParameterRate, parameter_groups
from densevit.training.callbacks.best_epoch import BestEpoch
from densevit.training.callbacks.training_progress import NotebookBar, TerminalBar
from densevit.training.loop.budget import Budget, Trained
from densevit.training.loop.evaluator_factory import build_evaluators
from densevit.training.loop.optim import build_optimizer, learning_rate, rates_of
from densevit.training.loop.sharding import STRATEGY, check_sharding
from densevit.training.loop.supervised_method import check_method
from densevit.training.loop.trainer import build_trainer
from densevit.training.loop.unused_parameters import freeze_unused
from densevit.training.run.callbacks_and_loggers import build_callbacks, check_callbacks
from densevit.training.run.config_checks import check_monitor
from densevit.training.run.folder import kept_options
from densevit.training.run.inputs import TrainingInputs
from densevit.training.run.model_building import build_model
from densevit.training.run.resuming import RunCheckpoint, validation_of
from densevit.weights import model_file
from densevit.weights.state_dict_loading import StateDictMatch


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A run that can start: all parts are built, all checks have passed, nothing is written.

    checkpoint: the checkpoint of a resumed run; None for a start at step 0. changed: config keys that differ from the
    checkpoint's. callbacks: the callbacks of the config and the caller. loaded: a report per pretrained source. rates:
    the learning rate of each parameter. passed: the model if it, or a part of it, was given as an object. has_weights:
    whether it starts from other weights than building the config gives.
    """

    config: Config
    checkpoint: RunCheckpoint | None
    changed: Mapping[str, str]
    trainer: lightning.Trainer
    callbacks: Sequence[lightning.Callback]
    data: DataSplits
    model: DenseModel
    method: Method
    loaded: Sequence[StateDictMatch]
    evaluators: Mapping[str, Evaluator]
    budget: Budget
    rates: Sequence[ParameterRate]
    passed: DenseModel | None
    has_weights: bool

    @property
    def is_complete(self) -> bool:
        """Whether a resumed run is complete: no steps are left, or `trainer.patience` is exhausted."""
        exhausted = self.best_epoch().exhausts(self.config.trainer.patience)
        return self.checkpoint is not None and (exhausted or self.checkpoint.step >= self.budget.steps)

    def best_epoch(self) -> BestEpoch:
        """The selection of the best epoch, restored from the checkpoint unless the next validation differs from its."""
        best, old = BestEpoch(self.evaluators, self.config.trainer.monitor), self.checkpoint
        if (
            old is not None
            and old.best["best"] is not None
            and (old.step >= self.budget.steps or validation_of(old.config) == validation_of(self.config))
        ):
            best.load_state_dict(old.best)
        return best

    def starting_from(self, file: Path) -> "Plan":
        """The plan with a config that names the model's weights, which are saved in a file."""
        if self.trainer.is_global_zero:
            model_file.save(self.model, file, step=0)
        self.model.sections = config = configs.with_overrides(self.config, {"weights": str(file)})
        return replace(self, config=config)

    @classmethod
    def of(cls, inputs: TrainingInputs, callbacks: Sequence[lightning.Callback] = ()) -> "Plan":
        """Builds and checks the parts in the order of their dependencies. callbacks: the caller's.

        Raises ConfigError, PluginError, DataError or WeightsError for invalid input.
        """
        config, checkpoint = inputs.config, inputs.checkpoint
        check_sharding(config)
        callbacks = build_callbacks(config.trainer, callbacks)
        lightning.seed_everything(config.seed, verbose=False)
        trainer = _trainer(config, callbacks)
        model, config, loaded, is_given, has_weights = build_model(inputs)
        data = inputs.data.padded_to(model.padding)
        options = kept_options(config.method, inputs.run)
        method: Method = registry.create("methods", config.method.name, model, options=options, where="method")
        check_method(method, model)
        data.use(method)
        evaluators = build_evaluators(model, data.val, method)
        metrics = check_monitor(config.trainer.monitor, evaluators, config.trainer.patience)
        check_callbacks(callbacks, metrics)
        batches = data.batches_per_epoch(trainer.world_size)
        trained = Trained() if checkpoint is None else checkpoint.trained
        budget = Budget.of(config.trainer, batches, config.data.batch_size, trainer.world_size, trained)
        method.check_steps(budget.steps)
        rates = _rates(config, model, method, budget, checkpoint, trainer.world_size > 1)
        return cls(
            config=config,
            checkpoint=checkpoint,
            changed=inputs.changed,
            trainer=trainer,
            callbacks=callbacks,
            data=data,
            model=model,
            method=method,
            loaded=loaded,
            evaluators=evaluators,
            budget=budget,
            rates=rates,
            passed=model if is_given and config.trainer.strategy != STRATEGY and not config.backbone.lora else None,
            has_weights=has_weights,
        )


def _rates(
    config: Config,
    model: DenseModel,
    method: Method,
    budget: Budget,
    checkpoint: RunCheckpoint | None,
    is_distributed: bool,
) -> list[ParameterRate]:
    """The learning rate of each parameter.

    is_distributed: whether several processes train. They freeze parameters without gradient, which their optimiser
    lacks, unless it is that of a checkpoint of one process. Raises WeightsError or ConfigError if a checkpoint does not
    match the model or the optimiser.
    """
    lr = learning_rate(config.optim, budget.images_per_step)
    rates = rates_of(model, config.optim, lr, method)
    groups = parameter_groups(rates)
    for group in groups:  # raises for values that the optimiser refuses
        build_optimizer(config.optim, [{**group, "params": [torch.zeros(2, 2)]}], lr)
    if checkpoint is not None:
        checkpoint.check_model(model, method)
    begun_by_several = checkpoint is not None and not checkpoint.has_groups(groups)
    if is_distributed or begun_by_several or config.trainer.strategy == STRATEGY:
        unused = set(freeze_unused(model, method))
        if checkpoint is None or checkpoint.is_sharded or begun_by_several:
            rates = [rate._replace(lr=None) if rate.name in unused else rate for rate in rates]
    if checkpoint is not None:
        checkpoint.check_groups(parameter_groups(rates))
    return rates


def _trainer(config: Config, callbacks: Sequence[lightning.Callback]) -> lightning.Trainer:
    section, console = config.trainer, get_console()
    bars: list[lightning.Callback] = []
    if not console.quiet and not any(isinstance(callback, LightningBar) for callback in callbacks):
        if console.is_terminal:
            bars = [TerminalBar(console_kwargs={"stderr": console.stderr})]
        elif console.is_jupyter:
            bars = [NotebookBar(refresh_rate=10)]  # showing a loss waits for the GPU
    return build_trainer(
        section,
        callbacks=bars,
        max_epochs=-1,  # the budget ends the training
        check_val_every_n_epoch=None,
        gradient_clip_val=section.clip_grad_norm,
        log_every_n_steps=section.log_every,
        enable_progress_bar=bool(bars),
        num_sanity_val_steps=0,
        default_root_dir=os.devnull,  # Lightning looks for its checkpoints there
    )
