"""Checks of the config, the data and the model before a run or an evaluation."""

from collections.abc import Mapping

from torch import Tensor

from densevit import registry
from densevit.config import Config
from densevit.data.data_splits import DataSplits
from densevit.data.transforms.sample_resizing import EvaluationTransform, WithoutAugmentation
from densevit.errors import ConfigError, DensevitError, PluginError, did_you_mean, one_line
from densevit.interfaces import Evaluator
from densevit.layers.precision import HALF
from densevit.model import DenseModel, inference_by_head
from densevit.model.freezing import freeze_backbone
from densevit.model.lora import adapted_layers
from densevit.model.meta_device import built_on_meta
from densevit.model.model_factory import backbone_from
from densevit.training.loop.data_checks import check_learnable, check_required_targets
from densevit.training.loop.evaluator_factory import METHOD, flat_metrics

CASTING = ("bf16-true", "64")  # values of `trainer.precision` that cast the weights


def check_model(config: Config, data: DataSplits, model: DenseModel) -> None:
    """Raises ConfigError if the model cannot be trained or validated on this data."""
    if registry.load("methods", config.method.name).needs_labels:
        check_learnable(data, model)
    _check_weights_type(config.trainer.precision, model)
    _check_input_size(config, data.val_transform, model)
    if config.backbone.cache is not None and (changed := changed_images(config, data)):
        raise ConfigError(
            f"backbone.cache: {changed} in training, so that each pass needs other features. Fix: "
            "data.transforms=resize without mosaic, mixup and copy-paste; or backbone.cache=null."
        )


def _check_weights_type(precision: str, model: DenseModel) -> None:
    """Raises ConfigError for trained weights in half precision, unless the precision casts them."""
    halves = [p.dtype for p in model.parameters() if p.requires_grad and p.dtype in HALF]
    if halves and precision not in CASTING:
        raise ConfigError(
            f"trainer.precision is {precision}, but the model has weights in {str(halves[0]).removeprefix('torch.')}, "
            "in which small updates are lost. Fix: model.float() before fit, or trainer.precision=bf16-true."
        )


def check_frozen(config: Config) -> None:
    """Raises ConfigError for LoRA targets that the backbone lacks, and for a frozen part without loaded weights, unless
    these are `random`. Reads no data; builds the backbone on the meta device."""
    section = config.backbone
    has_weights = config.weights or section.weights or section.options.get("pretrained")
    if has_weights and section.lora is None:
        return
    backbone = built_on_meta(lambda: backbone_from(section, pretrained=False))
    if section.lora is not None:
        adapted_layers(backbone, section.lora)  # raises for missing targets
    if has_weights:
        return
    freeze_backbone(backbone, section.freeze)
    parameters = list(backbone.parameters())
    frozen = sum(parameter.numel() for parameter in parameters if section.lora or not parameter.requires_grad)
    if frozen:
        raise ConfigError(
            f"{frozen:,} of {sum(map(Tensor.numel, parameters)):,} parameters of the backbone are frozen, but no "
            "weights are loaded: they would stay random. Fix: backbone.weights=SOURCE, a file, timm:NAME or "
            "torchvision:NAME; or, on purpose, backbone.weights=random."
        )


def check_labels(config: Config, data: DataSplits) -> None:
    """Raises ConfigError if a head needs labels that the data lacks."""
    check_required_targets(
        {f"heads.{name} ({head.name})": registry.load("heads", head.name) for name, head in config.heads.items()}, data
    )


def check_monitor(monitor: str | None, evaluators: Mapping[str, Evaluator], patience: int | None = None) -> list[str]:
    """The names of all evaluators' metrics. Raises ConfigError if the monitored metric is not among them, or `patience`
    is set without evaluators, and PluginError for an evaluator that cannot compute metrics without images.

    Call this before any update of the evaluators.
    """
    if patience is not None and not evaluators:
        raise ConfigError(
            f"trainer.patience is {patience}, but nothing is validated: the model has no heads, and the method no "
            "validation loss. Fix: leave out trainer.patience, or implement Method.validation_losses."
        )
    names = [*flat_metrics({name: _metrics_without_images(name, x) for name, x in evaluators.items()})]
    if monitor is not None and monitor not in names:
        raise ConfigError(f"trainer.monitor: there is no metric {monitor!r}.{did_you_mean(monitor, names)}")
    return names


def _metrics_without_images(name: str, evaluator: Evaluator) -> dict[str, float]:
    where = f"{name if name == METHOD else f'heads.{name}'}: {type(evaluator).__name__}.compute()"
    try:
        metrics = evaluator.compute(())
        main = getattr(evaluator, "main", None)
        problem = f"returns {', '.join(metrics) or 'nothing'}, without its main metric {main!r}"
        if main in metrics:
            return metrics
    except DensevitError:
        raise
    except Exception as error:
        problem = f"fails without images: {type(error).__name__}: {one_line(error)}"
    raise PluginError(
        f"{where} {problem}. Called before training for the names of the metrics. Fix: without images, return "
        "all metrics as nan, including the main one."
    )


def changed_images(config: Config, data: DataSplits) -> str:
    """What changes the images in training, so that each pass needs other features; "" if nothing does."""
    if config.method.name != "supervised":
        return f"the method {config.method.name!r} changes the images"
    for phase in data.config_phases:
        if phase.mixing is not None or not all(isinstance(t, WithoutAugmentation) for t in phase.transforms):
            return f"data.transforms {config.data.transforms.name!r} and their options change the images"
    return ""


def _check_input_size(config: Config, evaluation: EvaluationTransform, model: DenseModel) -> None:
    """Raises ConfigError if the backbone has a fixed input size and the config resizes images to another size."""
    fixed = model.backbone.input_size
    if fixed is None:
        return
    size = config.data.image_size
    if (size if isinstance(size, tuple) else (size, size)) != fixed:
        raise ConfigError(
            f"backbone {config.backbone.name!r} takes images of {fixed[0]}x{fixed[1]} only, but data.image_size is "
            f"{size}. Fix: set data.image_size=[{fixed[0]},{fixed[1]}]."
        )
    if config.data.multi_scale is not None or config.data.in_final_phase.multi_scale is not None:
        raise ConfigError(
            f"backbone {config.backbone.name!r} takes images of {fixed[0]}x{fixed[1]} only, but data.multi_scale "
            "trains on several sizes. Fix: leave it out, or use another backbone."
        )
    sections = inference_by_head(model, config.inference, config.inference_by_head)
    unwindowed = [name for name in model.heads if name not in sections or sections[name].window is None]
    images = ((10 * fixed[0], 20 * fixed[1]), (20 * fixed[0], 10 * fixed[1]))  # landscape and portrait, both larger
    sides = zip(*(evaluation.size_of(*image) for image in images), strict=True)
    if unwindowed and any(max(lengths) > side for lengths, side in zip(sides, fixed, strict=True)):
        window = f"set inference.window=[{fixed[0]},{fixed[1]}]"
        raise ConfigError(
            f"backbone {config.backbone.name!r} takes images of {fixed[0]}x{fixed[1]} only, but data.transforms "
            f"{config.data.transforms.name!r} validate {' and '.join(f'heads.{name}' for name in unwindowed)} on whole "
            f"images. Fix: {window if sections.keys() >= set(unwindowed) else 'use other transforms'}."
        )
