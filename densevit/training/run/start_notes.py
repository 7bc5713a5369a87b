"""Lines that a run prints and logs at its start: its model, data and budget, and notes on them."""

import itertools
from collections.abc import Iterator, Sequence
from contextlib import suppress
from datetime import datetime
from functools import partial
from pathlib import Path

import torch
from rich.console import Group
from rich.table import Table

from densevit import config as configs
from densevit import registry
from densevit.config.data_schema import NEW_CLASSES
from densevit.config.values import RANDOM
from densevit.grouping import grouped
from densevit.model import create_neck
from densevit.model.meta_device import built_on_meta
from densevit.model.parameter_groups import ParameterRate, method_parameters
from densevit.terminal import show, table, text_console
from densevit.training.loop.optim import learning_rate
from densevit.training.loop.supervised_method import Supervised, labels_data
from densevit.training.run.end_notes import all_trained
from densevit.training.run.folder import RunFolder
from densevit.training.run.plan import Plan
from densevit.weights import licences
from densevit.weights.weights_table import weights_line, weights_table

_LOG_WIDTH = 120


def origin(plan: Plan, folder: RunFolder) -> Iterator[str]:
    """Yields lines on the start of the run: weights, or a checkpoint and the differences from its config."""
    if plan.changed:
        yield "Differences from the checkpoint's config:"
        yield from (f"  {key}: {change}" for key, change in plan.changed.items())
    if plan.checkpoint is not None and plan.checkpoint.best["best"] is not None and plan.best_epoch().best is None:
        yield "The best epoch so far is of other data or another evaluation: the next validation counts as the best."
    trained, batches = plan.checkpoint and plan.checkpoint.trained, plan.data.batches_per_epoch(plan.trainer.world_size)
    if trained and trained.length not in (None, batches) and 0 < trained.position < trained.length:
        yield "The epoch continues at the same share of its images in another order: a few images repeat."
    if plan.checkpoint is None:
        yield from plan.config.notes
        if not folder.new:
            yield f"{folder.path} has no checkpoint yet: training starts again from the beginning."
    elif plan.checkpoint.step >= plan.budget.steps:
        yield all_trained(plan, folder.path)
    for fit in plan.loaded:
        yield weights_line(fit)
        yield from (f"Warning: {warning}" for warning in fit.warnings)
    if plan.loaded:
        yield f"in full: {folder.path / 'log.txt'}"


def log(plan: Plan, path: Path) -> None:
    """Appends loaded tensors and learning rates to the run's log."""
    step = 0 if plan.checkpoint is None else plan.checkpoint.step
    with path.open("a", encoding="utf-8") as file:
        title = f"{datetime.now():%Y-%m-%d %H:%M:%S}, step {step:,}"
        show(
            Group(title, *map(weights_table, plan.loaded), rates_table(plan.rates)),
            text_console(file=file, width=_LOG_WIDTH),
        )


def rates_table(rates: Sequence[ParameterRate]) -> Table:
    """One row per optimiser group, named by its first parameter, and one for frozen parameters."""
    groups = grouped(
        ((rate.lr, rate.weight_decay, *rate.options.items()) if rate.parameter.requires_grad else (None, 0.0), rate)
        for rate in rates
    )
    rows = [
        [
            group[0].name,
            "frozen" if lr is None else f"{lr:.3g}",
            f"{decay:g}",
            f"{sum(rate.parameter.numel() for rate in group):,}",
        ]
        for (lr, decay, *_), group in groups.items()
    ]
    return table(rows, ["first parameter", "learning rate", "weight decay", "number"], right=range(1, 4))


def derived_values(plan: Plan) -> dict[str, str]:
    """Derived values, for comments in config.yaml."""
    images, method_only = plan.budget.images_per_step, method_parameters(plan.model, plan.method)
    backbone, count = plan.model.backbone, len(plan.data.train)
    values = {
        "training images": str(count),
        "validation images": str(len(plan.data.val)),
        "images per optimiser step": str(images),
        "optimiser steps": f"{plan.budget.steps:,}, {plan.budget.images / count:.2f} epochs",
        "learning rate": f"{learning_rate(plan.config.optim, images):g}",
        "precision": str(plan.trainer.precision),
        "feature channels and strides": f"{list(backbone.channels)} at {list(backbone.strides)}",
        "parameters": f"{sum(p.numel() for p in plan.model.parameters()):,}",
        **dict(configs.unwritten(plan.config.model_dump())),
    }
    if method_only:
        values["parameters of the method"] = f"{sum(p.numel() for p in method_only):,}"
    values |= {f"licences of {source}": str(stated) for source, stated in plan.model.licences.items()}
    return values | {
        f"classes of {name}": ", ".join(c.name for c in classes) for name, classes in plan.model.classes.items()
    }


def announcement(plan: Plan, folder: Path) -> Iterator[str]:
    """Yields lines on the model, a method other than supervised, the data, the budget and the devices."""
    config, data, trainer = plan.config, plan.data, plan.trainer
    heads = ", ".join(f"{name} ({section.name})" for name, section in config.heads.items())
    what = f"{config.backbone.name} -> {heads}" if heads else config.backbone.name
    how = "" if isinstance(plan.method, Supervised) else f", method {config.method.name}"
    trained = sum(rate.parameter.numel() for rate in plan.rates if rate.parameter.requires_grad)
    yield from (f"{key}: {why}" for key, why in configs.unwritten(config.model_dump()))
    yield f"{what}{how}, {trained / 1e6:.2f} M trained parameters"
    for source, stated in plan.model.backbone.licences.items():  # `weights` report theirs
        yield licences.line(source, stated)
    size = "" if config.data.image_size is None else f"; image_size {config.data.image_size}"
    images = f"{len(data.train):,} training images, {len(data.val):,} validation images"
    yield f"{config.data.folder_name}: {images}{size}"
    if not data.train.channels.is_rgb:
        yield f"channels: {plan.model.channels}"
    yield from filter(None, (data.val.conversion, data.val.division))
    if config.data.labelled_classes == NEW_CLASSES and not labels_data(plan.method):
        yield f"The classes of {config.weights} are not labelled, and are forgotten. method=self_training keeps them."
    yield plan.budget.describe(len(data.train))
    yield from (*missing_necks(plan), *random_backbone(plan))
    device = trainer.strategy.root_device
    hardware = f"cpu, {torch.get_num_threads()} threads"
    if device.type != "cpu":
        hardware = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    yield f"{trainer.world_size} x {hardware}, {trainer.precision}; writing to {folder}/"


def missing_necks(plan: Plan) -> Iterator[str]:
    """Yields the necks that make finer features for heads without a neck, if all features have one stride."""
    model, strides = plan.model, plan.model.backbone.strides
    wanted = {
        name: head.finest_stride
        for name, head in model.heads.items()
        if head.finest_stride and len({*strides}) == 1 and name not in model.necks
    }
    for (name, limit), neck in itertools.product(wanted.items(), registry.list_plugins("necks")):
        with suppress(Exception):  # a neck that cannot be imported, or does not take these features
            levels = built_on_meta(partial(create_neck, neck, model.backbone.channels, strides)).strides
            if len(levels) > 1 and (finest := min(level for level in levels if level >= limit)) < strides[0]:
                yield (
                    f"heads.{name} ({plan.config.heads[name].name}): all features of the backbone have stride "
                    f"{strides[0]}. heads.{name}.neck.name={neck} gives it features from stride {finest} on, "
                    f"{(strides[0] / finest) ** 2:.3g} times the cells."
                )


def random_backbone(plan: Plan) -> Iterator[str]:
    """Yields a line if a backbone starts from random weights at a lower learning rate than the heads."""
    section, lr = plan.config.backbone, learning_rate(plan.config.optim, plan.budget.images_per_step)
    if (
        (rate := plan.config.optim.backbone_lr or lr) < lr
        and plan.checkpoint is None
        and plan.config.weights is None
        and section.weights in (None, RANDOM)
        and not section.options.get("pretrained")
    ):
        yield (
            f"The backbone starts from random weights with optim.backbone_lr={rate:g}, below the {lr:g} of the heads. "
            "The same rate for both: optim.backbone_lr=null."
        )
