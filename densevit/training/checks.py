"""Checks of the config, the data and the model before a training or an evaluation.

A training calls `check_training` once the model is built, `check_monitor` once the evaluators are, and `check_budget`
once the number of processes is known. An evaluation calls `model.inference_by_head`, then `map_classes`.
A DenseModule calls `check_batch` on the first batch of each loader.
"""

import math
import warnings
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from densevit import registry
from densevit.config import Config
from densevit.data.build import Data
from densevit.errors import ConfigError, DataError, DensevitError, PluginError, counted, did_you_mean, one_line
from densevit.interfaces import Evaluator, Method
from densevit.model import DenseModel, inference_by_head
from densevit.training.budget import Budget
from densevit.training.evaluators import METHOD, flat_metrics

_MIN_STEPS = 1000  # with fewer steps, a model from random weights learns next to nothing in any of our recipes
_MIN_STEPS_FINE_TUNING = 100
_BATCH = (
    "a dict of images, padding_mask and targets is expected. Fix: let the data set return {'image': ..., 'targets': "
    "...} and give the loader collate_fn=densevit.collate."
)
_TARGET = {  # the keys of every target
    "image_id": "the image's id, an int or a string",
    "size": "(height, width) of the image in the batch, without padding",
    "original_size": "(height, width) of the image file",
}


def check_training(config: Config, data: Data, model: DenseModel, labels: bool = True) -> None:
    """Raises ConfigError if the model cannot be trained on this data, or validated as the config says.

    labels: whether it is trained on labels.
    """
    inference_by_head(model, config.inference, config.inference_by_head)  # raises for options that cannot be used
    if labels:
        check_heads(data, model)
    _check_input_size(config, model)
    _check_frozen(config, model)


def _check_frozen(config: Config, model: DenseModel) -> None:
    """Warns if a part of the backbone is frozen, and no weights are loaded for it."""
    section = config.backbone
    if config.weights or section.weights or section.options.get("pretrained"):
        return
    parameters = list(model.backbone.parameters())
    frozen = sum(parameter.numel() for parameter in parameters if not parameter.requires_grad)
    if frozen:
        warnings.warn(
            f"{frozen:,} of {sum(map(Tensor.numel, parameters)):,} parameters of the backbone are frozen, but no "
            "weights are loaded: they stay random. Fix: set backbone.weights to a checkpoint.",
            stacklevel=2,
        )


def check_needs(config: Config, data: Data) -> None:
    """Raises ConfigError if a head of the config needs labels that the training data lacks; before heads are built."""
    for name, section in config.heads.items():
        kind = registry.load("heads", section.name).with_options(section.options)
        _check_needs(f"heads.{name} ({section.name})", kind.needs, data)


def check_heads(data: Data, model: DenseModel) -> None:
    """Raises ConfigError if a head needs labels that the training data lacks, or its own check fails; the warnings of
    that check name the head too."""
    for name, head in model.heads.items():
        plugin = type(head).__name__ if model.sections is None else model.sections.heads[name].name
        _check_needs(f"heads.{name} ({plugin})", head.needs, data)
        try:
            with warnings.catch_warnings(record=True) as found:
                warnings.simplefilter("always")
                head.check(data.train)
            for one in found:
                warnings.warn(f"heads.{name} ({plugin}): {one.message}", one.category, stacklevel=2)
        except ConfigError as error:
            note = f" The data set is {data.section.name!r}."
            if not data.train.metric:
                keys = ", ".join(_keys_set_to_false("metric", data.section.options, "data"))
                note = f" The data set is {data.section.name!r} ({keys or 'metric'}: false)."
            raise ConfigError(f"heads.{name} ({plugin}) {error}{note}") from None


def _check_needs(head: str, needs: Sequence[str], data: Data) -> None:
    lacking = [key for key in needs if key not in data.provides]
    if lacking:
        labelled = f"{', '.join(data.provides)} only" if data.provides else "nothing"
        off = [name for key in lacking for name in _keys_set_to_false(key, data.section.options, "data")]
        raise ConfigError(
            f"{head} needs {', '.join(lacking)}, but the data set {data.section.name!r} labels {labelled}. Fix: "
            f"{'set ' + ', '.join(f'{name}=true' for name in off) if off else 'use another head or data set'}."
        )


def check_classes(data: Data, model: DenseModel, mapped: Collection[str] = ()) -> None:
    """Raises DataError if the classes of the validation data differ from those that a head was trained on.

    mapped: heads whose classes are mapped to those of the data.
    """
    for head, trained in model.classes.items():
        if head in mapped:
            continue
        kind = model.heads[head]
        expected, found = [c.name for c in trained], [c.name for c in kind.classes_from(data.val)]
        if expected != found:
            raise DataError(
                f"The data's classes for {kind.task} are not those of the model's head {head!r}, in the same order."
                f" Found: {_listed(found)}. Expected: {_listed(expected)}."
            )


def check_monitor(monitor: str | None, evaluators: Mapping[str, Evaluator], patience: int | None = None) -> list[str]:
    """The metrics of all evaluators. Raises ConfigError if none computes the monitored one, or `patience` has none, and
    PluginError for an evaluator whose metrics are not known without images.

    Call it before any evaluator was updated.
    """
    if patience is not None and not evaluators:
        raise ConfigError(
            f"trainer.patience is {patience}, but nothing is validated: the model has no heads, and the method no "
            "validation loss. Fix: leave trainer.patience out, or implement Method.validation_losses."
        )
    names = list(flat_metrics({name: _metrics_without_images(name, one) for name, one in evaluators.items()}))
    if monitor is not None and monitor not in names:
        raise ConfigError(f"trainer.monitor: there is no metric {monitor!r}.{did_you_mean(monitor, names)}")
    return names


def _metrics_without_images(name: str, evaluator: Evaluator) -> dict[str, float]:
    where = f"{name if name == METHOD else f'heads.{name}'}: {type(evaluator).__name__}.compute()"
    try:
        metrics = evaluator.compute()
    except DensevitError:
        raise
    except Exception as error:
        raise PluginError(
            f"{where} fails without images: {type(error).__name__}: {one_line(error)}. It is called before a training, "
            "for the names of the metrics. Fix: without images, return all metrics as nan."
        ) from error
    main = getattr(evaluator, "main", None)
    if main not in metrics:
        raise PluginError(
            f"{where} returns {', '.join(metrics) or 'nothing'}, without its main metric {main!r}. It is called before "
            "a training, for the names of the metrics. Fix: without images, return all metrics as nan, `main` among "
            "them."
        )
    return metrics


def check_budget(budget: Budget, config: Config) -> None:
    """Warns if the training is too short to learn anything, with the number to set."""
    pretrained = config.initial_weights != "random"
    least = _MIN_STEPS_FINE_TUNING if pretrained else _MIN_STEPS
    if budget.steps < least:
        section = config.trainer
        [key] = [name for name in ("max_steps", "max_images", "max_epochs") if getattr(section, name) is not None]
        needed = {
            "max_steps": least,
            "max_images": least * budget.images_per_step,
            "max_epochs": math.ceil(least / budget.steps_per_epoch),
        }[key]
        start = "pretrained" if pretrained else "random"
        steps = "" if key == "max_steps" else f" is {counted(budget.steps, 'optimiser step')} of this data set and"
        warnings.warn(
            f"trainer.{key}={getattr(section, key)}{steps} is too little to learn from {start} weights, "
            f"which takes {least:,} steps or more. Fix: set trainer.{key}={needed} or keep the recipe's budget.",
            stacklevel=2,
        )
    warmup = config.optim.warmup_steps
    if warmup is not None and warmup >= budget.steps > 1:
        warnings.warn(
            f"optim.warmup_steps={warmup} is all of the {budget.steps} optimiser steps: the learning rate "
            "never reaches its full value. Fix: set optim.warmup, a fraction of the training, such as 0.03.",
            stacklevel=2,
        )


def check_batch(batch: Any) -> None:
    """Raises DataError if this is not a batch as the model takes it, see `Batch`."""
    if not isinstance(batch, Mapping):
        raise DataError(f"The loader's first batch is a {type(batch).__name__}; {_BATCH}")
    lacking = [key for key in ("images", "padding_mask", "targets") if key not in batch]
    if lacking:
        found = ", ".join(map(str, batch)) or "nothing"
        raise DataError(f"The loader's first batch lacks {', '.join(lacking)}; found: {found}. {_BATCH}")
    images, mask, targets = batch["images"], batch["padding_mask"], batch["targets"]
    if not isinstance(images, Tensor) or images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] != 3:
        raise DataError(f"The loader's first batch: images is {_kind(images)}; uint8 (B, 3, H, W), RGB, is expected.")
    shape = (len(images), *images.shape[2:])
    if not isinstance(mask, Tensor) or mask.dtype != torch.bool or tuple(mask.shape) != shape:
        raise DataError(
            f"The loader's first batch: padding_mask is {_kind(mask)}; bool {shape}, True = padding, is expected."
        )
    if not isinstance(targets, Sequence) or len(targets) != len(images):
        count = f" of {len(targets)}" if isinstance(targets, Sequence) else ""
        raise DataError(
            f"The loader's first batch: targets is a {type(targets).__name__}{count}; a list of {len(images)} dicts, "
            "one per image, is expected."
        )
    for index, target in enumerate(targets):
        if not isinstance(target, Mapping):
            raise DataError(
                f"The loader's first batch: targets[{index}] is a {type(target).__name__}; a dict is expected."
            )
        for key, meaning in _TARGET.items():
            if key not in target:
                raise DataError(
                    f"The loader's first batch: targets[{index}] lacks {key!r}; found: {', '.join(target) or 'nothing'}"
                    f". Fix: set it to {meaning}."
                )
        size, limit = tuple(map(int, target["size"])), tuple(images.shape[2:])
        if len(size) != 2 or any(not 0 < side <= most for side, most in zip(size, limit, strict=True)):
            raise DataError(
                f"The loader's first batch: targets[{index}]['size'] is {size} in a batch of {limit}. Fix: set it to "
                f"{_TARGET['size']}."
            )


def check_losses(losses: Any, method: Method) -> None:
    """Raises PluginError unless these are the loss terms that `training_step` returns."""
    if (
        isinstance(losses, Mapping)
        and losses
        and all(isinstance(x, Tensor) and x.numel() == 1 for x in losses.values())
    ):
        return
    terms = losses.items() if isinstance(losses, Mapping) else ()
    found = "{" + ", ".join(f"{name!r}: {_kind(x)}" for name, x in terms) + "}" if terms else _kind(losses)
    raise PluginError(
        f"method {type(method).__name__}: training_step returned {found}; a dict of scalar tensors is expected, as in "
        "{'reconstruction': loss}."
    )


def _kind(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"{str(value.dtype).removeprefix('torch.')} {tuple(value.shape)}"
    return f"a {type(value).__name__}"


def _check_input_size(config: Config, model: DenseModel) -> None:
    """Raises ConfigError if the backbone has a fixed input size and the config gives it images of another size."""
    fixed = model.backbone.input_size
    if fixed is None:
        return
    size = config.data.image_size
    if (size if isinstance(size, tuple) else (size, size)) != fixed:
        raise ConfigError(
            f"backbone {config.backbone.name!r} takes images of {fixed[0]}x{fixed[1]} only, but data.image_size is "
            f"{size}. Fix: set data.image_size=[{fixed[0]},{fixed[1]}]."
        )
    sections = inference_by_head(model, config.inference, config.inference_by_head)
    whole = [name for name in model.heads if name not in sections or sections[name].window is None]
    if config.data.recipe in ("crop", "lsj") and whole:
        window = f"set inference.window=[{fixed[0]},{fixed[1]}]"
        raise ConfigError(
            f"backbone {config.backbone.name!r} takes images of {fixed[0]}x{fixed[1]} only, but data.recipe "
            f"{config.data.recipe!r} validates {' and '.join(f'heads.{name}' for name in whole)} on whole images. Fix: "
            f"{window if sections.keys() >= set(whole) else 'use another recipe'}."
        )


def _keys_set_to_false(key: str, options: Mapping[str, Any], where: str) -> Iterator[str]:
    """The dotted names of this key where it is false: data.metric, data.sets.NAME.metric."""
    for name, value in options.items():
        if name == key and value is False:
            yield f"{where}.{name}"
        elif isinstance(value, Mapping):
            yield from _keys_set_to_false(key, value, f"{where}.{name}")


def _listed(names: Sequence[str], most: int = 8) -> str:
    return ", ".join(names[:most]) + (f" ... ({len(names)} in all)" if len(names) > most else "") or "none"
