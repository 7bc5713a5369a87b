"""Creates models and backbones by plugin names, with pretrained weights."""

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from densevit import config as configs
from densevit import registry
from densevit.config import Config, ModelSections
from densevit.config.initial_weights import check_parts, use_argument
from densevit.config.values import RANDOM
from densevit.data.build import build_data
from densevit.data.channel_statistics import use_channels
from densevit.data.datasets.coco_json import color_of
from densevit.errors import ConfigError, did_you_mean
from densevit.interfaces import Backbone, Class, Dataset
from densevit.model import (
    Architecture,
    DenseModel,
    build,
    build_from_architecture,
    classes_by_head,
    tasks_of,
)
from densevit.model.lora import add_adapters, missing_package
from densevit.weights.checkpoint_io import read
from densevit.weights.foreign_checkpoint import channels_of, translated_for
from densevit.weights.pretrained import load_pretrained, read_files
from densevit.weights.state_dict_loading import Fit

Classes = Sequence[Class | str]
Section = str | Mapping[str, Any]


def build_with_weights(
    backbone: Section | Path | Config,
    heads: Mapping[str, Section] | None,
    classes: Classes | Mapping[str, Classes] | None,
    weights: str | Path | None,
    pretrained: bool,
) -> tuple[DenseModel, Config | ModelSections]:
    """Builds the model of `densevit.create_model`, in evaluation mode, and returns it with its sections."""
    if weights is not None and not pretrained:
        raise ConfigError("create_model: pretrained=False loads no weights, but weights are given. Fix: omit one.")
    for key, given in {
        "backbone": backbone,
        **{f"heads[{name!r}]": head for name, head in (heads or {}).items()},
    }.items():
        _check_named(key, given)
    sections: Config | ModelSections
    if heads is None:
        sections = _config(backbone)
        if classes is None:
            dataset = build_data(sections).train
            use_channels(sections, dataset)
            classes = classes_by_head(sections.architecture, dataset)
    else:
        sections = configs.model_sections(
            {"backbone": _section(backbone), "heads": {name: _section(head) for name, head in heads.items()}},
            "create_model",
        )
        check_parts(sections)
    if weights is not None:
        use_argument(sections, str(weights))
    architecture = sections.architecture
    if architecture.backbone.lora is not None and (missing := missing_package()):
        raise ConfigError(missing)
    checkpoints = read_files(sections) if pretrained else {}
    model = build_from_architecture(architecture, _given_classes(architecture, classes or {}), pretrained)
    model.training_data = None if sections.data is None else sections.data.model_dump()
    if pretrained:
        if weights is not None:
            checkpoint = checkpoints.get(str(weights)) or read(weights)
            checkpoints[str(weights)] = checkpoint
            if not translated_for(checkpoint, model).heads:
                sections.weights, sections.backbone.weights = None, str(weights)
        _warn(load_pretrained(model, sections, checkpoints), stacklevel=4)
        for line in sections.set_aside if isinstance(sections, Config) else ():
            warnings.warn(line, stacklevel=3)
    add_adapters(model)
    return model.eval(), sections


def build_model(
    config: Config, classes: Mapping[str, Sequence[Class]] | Dataset, pretrained: bool = True
) -> DenseModel:
    """Builds the model that a config describes, with random weights; `weights.pretrained.load_pretrained` loads others.

    classes: the classes of each task, or the data set from which each head takes its classes, and the config the
    channels of its images (`use_channels`). pretrained: the argument
    of `build_from_architecture`.
    """
    if isinstance(classes, Dataset):
        use_channels(config, classes)
    architecture = config.architecture
    model = build_from_architecture(architecture, classes_by_head(architecture, classes), pretrained)
    model.training_data = config.data.model_dump()
    return model


def create_backbone(
    name: str, weights: str | Path | None = None, weights_allow: Sequence[str] = (), **options: Any
) -> Backbone:
    """Builds a backbone by its plugin name. options: arguments of its constructor.

    weights: pretrained weights as in `backbone.weights`, which also set mean, std, the channels of the images and the
    options with which another project's code computes; None or "random": random weights.
    weights_allow: name patterns of tensors that may be missing, unexpected or of another shape.
    Its layers are those of the papers; `DenseModel` replaces them by faster ones with the same results.
    """
    if weights is not None and options.get("pretrained") is True:
        raise ConfigError(f"create_backbone: weights={weights} and pretrained=True are given. Fix: omit one.")
    if weights in (None, RANDOM):
        return build.build_backbone(name, **options)
    checkpoint = read(weights)
    images = channels_of(checkpoint)
    values = {**images, "name": name, **options, "weights": str(weights), "weights_allow": tuple(weights_allow)}
    section = configs.section("backbone", values, "create_backbone")
    model = build_from_architecture(Architecture(section.architecture, replace_layers=False), {})
    _warn(load_pretrained(model, ModelSections(backbone=section, heads={}), {str(weights): checkpoint}), stacklevel=3)
    return model.backbone


def _warn(loaded: Sequence[Fit], stacklevel: int) -> None:
    """Shows the warnings of loaded weights, which a training prints with its table of tensors."""
    for message in dict.fromkeys(message for fit in loaded for message in fit.warnings):
        warnings.warn(message, stacklevel=stacklevel)


def _config(source: Section | Path | Config) -> Config:
    if isinstance(source, Config):
        return configs.with_overrides(source, ())
    if isinstance(source, Mapping) or source in registry.find("backbones"):
        raise ConfigError(
            "create_model: a backbone without heads. Expected heads={NAME: PLUGIN}, or a complete config instead of "
            "the backbone: a Config, a file or a shipped config's name."
        )
    return configs.load(source)


def _section(given: Any) -> Any:
    return {"name": given} if isinstance(given, str) else given


def _check_named(key: str, given: object) -> None:
    """Raises ConfigError for a class or a module instead of its name."""
    if isinstance(given, type | nn.Module):
        kind = given if isinstance(given, type) else type(given)
        name = f"{kind.__module__}:{kind.__qualname__}"
        raise ConfigError(
            f"create_model: {key} is {'the class' if kind is given else 'an object of class'} {kind.__name__}; a name "
            f"or a section is expected. Fix: write {name!r}, with options {{'name': {name!r}, OPTION: VALUE}}."
        )


def _given_classes(architecture: Architecture, given: Classes | Mapping[str, Classes]) -> dict[str, tuple[Class, ...]]:
    """Returns the classes of each head from classes by head or task."""
    tasks = tasks_of(architecture)
    if not isinstance(given, Mapping):
        if len(tasks) != 1:
            raise ConfigError(
                f"create_model: a list of classes for {len(tasks)} heads. Expected classes by head: "
                f"classes={{{', '.join(f'{name!r}: [...]' for name in tasks)}}}."
            )
        given = dict.fromkeys(tasks, given)
    for name in given:
        if name not in (names := {*tasks, *tasks.values()}):
            raise ConfigError(f"create_model: classes of {name!r}, which is not a head.{did_you_mean(name, names)}")
    return {name: _classes(given.get(name, given.get(task, ()))) for name, task in tasks.items()}


def _classes(given: Classes) -> tuple[Class, ...]:
    return tuple(c if isinstance(c, Class) else Class(c, i, color_of(i)) for i, c in enumerate(given))
