"""Creates models from plugins, sections and configs."""

import functools
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from densevit import config as configs
from densevit import registry
from densevit.config import Config, ModelSections
from densevit.config.config_layers import BACKBONE_WEIGHTS, WEIGHTS
from densevit.config.initial_weights import settled
from densevit.config.values import as_section, with_value
from densevit.data.channel_statistics import with_channels
from densevit.data.data_builder import build_data
from densevit.errors import ConfigError, head_names
from densevit.inference.model_loading import device_of
from densevit.interfaces import Backbone, Class, Classes, Head, as_classes
from densevit.model import DenseModel, build_from_sections, classes_by_head, tasks_of
from densevit.model.lora import add_adapters
from densevit.paths import user_path
from densevit.weights.checkpoint_io import read
from densevit.weights.pretrained_models import Section, build_pretrained, warn_of, with_in_channels
from densevit.weights.resolving import resolve

Plugin = Backbone | Head | type | functools.partial[Any]


def create_model(
    backbone: Section | Path | Config | Plugin,
    heads: Section | Plugin | Mapping[str, Section | Plugin] | None = None,
    classes: Classes | Mapping[str, Classes] | None = None,
    weights: str | Path | None = None,
    pretrained: bool = True,
    device: str | torch.device | None = None,
    in_channels: int | None = None,
) -> DenseModel:
    """Builds a model in training mode and loads the pretrained weights that its sections name.

    backbone: a plugin's name; published weights by name, "timm:resnet18" or "hf:ORG/NAME", or a timm model's name,
    which are loaded; a config's section `backbone`: {"name": "swin", "variant": "tiny"}; a class or a
    `functools.partial`; or an instance, which is used itself and keeps its layers. Without `heads`, a complete config:
    a `Config`, a file or a shipped config's name.
    heads: the same for each head name; classes are called with channels, strides and classes. Of a single head, the
    plugin or the section alone: the head has the name of its task.
    classes: the classes of each head, by its name or task; of a single head, its classes alone. Classes are a list of
    `Class`es or names, or their number. None: the classes of a config's data set; with `heads`, no classes.
    weights: a checkpoint of the model or of its backbone; overrides a config's weights of the same tensors, with a
    warning. pretrained: False: random weights.
    in_channels: the number of channels of 8-bit images: 1 is grey, 4 or more are red, green, blue and others. Weights
    for RGB are adapted. None: the section's channels or RGB; a config takes them from its data.
    Raises ConfigError, PluginError or WeightsError for invalid arguments, such as `weights` together with a section's
    weights of the same tensors.

    Example:
        >>> model = densevit.create_model({"name": "resnet", "depth": 18}, heads="setr", classes=["road", "sky"])
        >>> model.predict("examples/coffee.jpg").semantic.shape
        torch.Size([480, 720])
    """
    target = device_of(device)
    if weights is not None:
        user_path(weights)  # raises for an empty path
    if weights is not None and not pretrained:
        raise ConfigError(
            f"create_model: pretrained=False loads no weights, but weights={weights} is set. Fix: omit one."
        )
    sections: ModelSections
    if heads is None:
        config = _config(backbone)
        if in_channels is not None:
            raise ConfigError(
                f"create_model: in_channels={in_channels}, but the config's `data` sets the channels. Fix: omit it."
            )
        if weights is not None:
            config = configs.with_overrides(config, {"weights": str(weights)})
        for line in config.notes if pretrained else ():
            warnings.warn(line, stacklevel=2)
        if classes is None:
            dataset = build_data(config).train
            config = with_channels(config, dataset)
            classes = classes_by_head(config, dataset)
        sections = config
    else:
        values: dict[str, Any] = {
            "weights": None if weights is None else str(weights),
            "backbone": with_in_channels(_section(backbone), in_channels),
            "heads": {name: _section(head) for name, head in _by_name(heads).items()},
        }
        sections = settled(configs.model_sections(values, "create_model"))
    head_classes = _classes_by_head(sections, classes or {})
    if not pretrained:
        model = build_from_sections(sections, head_classes, pretrained=False)
    else:
        checkpoints = {} if weights is None else {str(weights): read(weights)}
        if weights is not None and not resolve(sections, head_classes, checkpoints).checkpoints[str(weights)].heads:
            sections = with_value(with_value(sections, WEIGHTS, None), BACKBONE_WEIGHTS, str(weights))
        model, loaded = build_pretrained(sections, head_classes, checkpoints)
        warn_of(loaded, stacklevel=3)
    add_adapters(model)
    return model.to(target)


def _config(source: Section | Path | Config | Plugin) -> Config:
    if isinstance(source, Config):
        return configs.with_overrides(source, ())
    if (
        not isinstance(source, str | Path)
        or source in registry.find("backbones")
        or (":" in str(source) and not user_path(source).exists())
    ):
        raise ConfigError(
            "create_model: a backbone without heads. Expected heads={NAME: PLUGIN}, or a complete config instead of "
            "the backbone: a Config, a file or a shipped config's name. For features alone: densevit.create_backbone."
        )
    return configs.load(source)


def _section(plugin: Any) -> Any:
    return {"name": plugin} if isinstance(plugin, str) else plugin


def _by_name(heads: Section | Plugin | Mapping[str, Section | Plugin]) -> Mapping[str, Section | Plugin]:
    """The sections of heads by name. A single section gets the name of the head's task."""
    section: Mapping[str, Any] = as_section(heads)
    if not isinstance(section.get("name"), str):
        return section
    return {str(registry.load("heads", section["name"]).task): section}


def _classes_by_head(sections: ModelSections, classes: Classes | Mapping[str, Classes]) -> dict[str, tuple[Class, ...]]:
    """The classes of each head. classes: those of a single head, or by head or task."""
    tasks = tasks_of(sections)
    if not isinstance(classes, Mapping):
        if len(tasks) != 1:
            raise ConfigError(
                f"create_model: a list of classes for {len(tasks)} heads. Expected classes by head: "
                f"classes={{{', '.join(f'{name!r}: [...]' for name in tasks)}}}."
            )
        classes = dict.fromkeys(tasks, classes)
    head_names(classes, {*tasks, *tasks.values()}, "create_model: classes")
    return {name: as_classes(classes.get(name, classes.get(task, ()))) for name, task in tasks.items()}
