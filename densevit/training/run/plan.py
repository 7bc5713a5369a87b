"""What a training consists of: each part checked and built, before anything is written."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pytorch_lightning as lightning
import torch

from densevit import config as configs
from densevit import registry
from densevit.config import Config
from densevit.config.training_schema import OPTIMISERS
from densevit.data.build import Data, build_data
from densevit.interfaces import Evaluator, Method
from densevit.model import DenseModel, build_model
from densevit.model.parameter_groups import ParameterRate, parameter_groups
from densevit.training.loop.budget import Budget
from densevit.training.loop.evaluators import build_evaluators
from densevit.training.loop.method import check_method
from densevit.training.loop.optim import learning_rate, rates_of
from densevit.training.loop.sharding import STRATEGY, check_sharding
from densevit.training.loop.unused_parameters import freeze_unused
from densevit.training.run.checks import check_model, check_monitor, check_needs
from densevit.training.run.extensions import check_callbacks
from densevit.training.run.resuming import Checkpoint, changes
from densevit.weights.pretrained import load_pretrained
from densevit.weights.state_dict_loading import Fit


@dataclass
class Plan:
    """A training that can start: all parts are built, all checks have passed, and nothing is written.

    checkpoint: that a resumed run continues from; None of a run that starts at step 0. changed: the keys of the config
    that differ from the checkpoint's. loaded: what was loaded of each pretrained file. rates: the learning rate of each
    parameter. checkpoint_rates: those that the checkpoint's optimiser was built for.
    """

    config: Config
    checkpoint: Checkpoint | None
    changed: Mapping[str, str]
    trainer: lightning.Trainer
    data: Data
    model: DenseModel
    method: Method
    loaded: Sequence[Fit]
    evaluators: Mapping[str, Evaluator]
    budget: Budget
    rates: Sequence[ParameterRate]
    checkpoint_rates: Sequence[ParameterRate]

    @classmethod
    def of(
        cls,
        config: Config,
        trainer: lightning.Trainer,
        callbacks: Sequence[lightning.Callback] = (),
        checkpoint: Checkpoint | None = None,
    ) -> "Plan":
        """Builds the parts in the order in which they depend on each other, and checks each.

        callbacks: those of the config and of the caller. checkpoint: of a resumed run.
        Raises ConfigError, PluginError, DataError or WeightsError for what cannot be trained.
        """
        changed = {} if checkpoint is None or checkpoint.config is None else changes(checkpoint.config, config)
        lightning.seed_everything(config.seed, verbose=False)
        data = _data(config)
        model, loaded = _model(config, data, pretrained=checkpoint is None)
        method = _method(config, model, data)
        evaluators = build_evaluators(model, config, data.val, method)
        metrics = check_monitor(config.trainer.monitor, evaluators, config.trainer.patience)
        check_callbacks(callbacks, metrics)
        batches = data.batches_an_epoch(trainer.world_size)
        budget = Budget.of(config.trainer, batches, config.data.batch_size, trainer.world_size)
        lr = learning_rate(config.optim, budget.images_per_step)
        rates = checkpoint_rates = rates_of(model, config.optim, lr, method)
        groups = parameter_groups(rates)
        if checkpoint is not None:
            checkpoint.check_model(model, method)
        # Several processes train no unused parameters, so that the optimiser of their checkpoints has none.
        begun_by_several = checkpoint is not None and not checkpoint.has_groups(groups)
        if trainer.world_size > 1 or begun_by_several or config.trainer.strategy == STRATEGY:
            unused = set(freeze_unused(model, method))
            rates = [rate._replace(lr=None) if rate.name in unused else rate for rate in rates]
        if begun_by_several:
            checkpoint_rates, groups = rates, parameter_groups(rates)
        if checkpoint is not None:
            checkpoint.check_groups(groups)
            if config.optim.name in OPTIMISERS:
                checkpoint.check_optimizer(groups, model, method)
        parts = (trainer, data, model, method, loaded, evaluators, budget, rates, checkpoint_rates)
        return cls(config, checkpoint, changed, *parts)


def check_config(config: Config, checkpoint: Checkpoint | None) -> None:
    """Raises for what is wrong without a look at the data: plugins' options, the strategy, files of a resumed run."""
    configs.check_plugins(config)
    check_sharding(config)
    if checkpoint is not None:
        checkpoint.check_strategy(config.trainer.strategy)
        checkpoint.check_files()


def _data(config: Config) -> Data:
    """The data, whose labels are those that the method and the heads need."""
    data = build_data(config)
    needs_labels = registry.load("methods", config.method.name).needs_labels
    data.check_splits(needs_labels or bool(config.heads))
    if needs_labels:
        check_needs(config, data)
    return data


def _model(config: Config, data: Data, pretrained: bool) -> tuple[DenseModel, list[Fit]]:
    """The model with pretrained weights. pretrained: False where a checkpoint has all weights."""
    model = build_model(config, data.train, pretrained=pretrained)
    data.multiple = model.multiple
    check_model(config, data, model)
    loaded = load_pretrained(model) if pretrained else []
    if config.trainer.channels_last:
        model.to(memory_format=torch.channels_last)
    if config.trainer.compile:
        model.compile()
    return model, loaded


def _method(config: Config, model: DenseModel, data: Data) -> Method:
    """The training method, whose transforms the data then use."""
    method: Method = registry.create(
        "methods", config.method.name, model, options=config.method.options, where="method"
    )
    check_method(method)
    data.use(method)
    return method
