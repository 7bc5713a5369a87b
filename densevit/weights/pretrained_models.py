"""Creates models and backbones by plugin names, with pretrained weights."""

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from densevit import config as configs
from densevit import registry
from densevit.config import Config, ModelSections
from densevit.config.config_layers import typed_keys
from densevit.config.initial_weights import check_weights, settled
from densevit.config.sources import BACKBONE_WEIGHTS, WEIGHTS, Sources
from densevit.config.values import RANDOM, with_value
from densevit.data.channel_statistics import with_channels
from densevit.data.data_builder import build_data
from densevit.data.datasets.coco_json import color_of
from densevit.errors import ConfigError, did_you_mean
from densevit.interfaces import Backbone, Class, Dataset
from densevit.model import (
    DenseModel,
    build_from_sections,
    classes_by_head,
    model_factory,
    tasks_of,
)
from densevit.model.lora import add_adapters
from densevit.weights.checkpoint_io import Checkpoint, read
from densevit.weights.foreign_checkpoint import channels_of
from densevit.weights.pretrained import load_pretrained
from densevit.weights.resolving import NO_FILES, resolve
from densevit.weights.state_dict_loading import StateDictMatch

Classes = Sequence[Class | str]
Section = str | Mapping[str, Any]


def build_with_weights(
    backbone: Section | Path | Config,
    heads: Mapping[str, Section] | None,
    classes: Classes | Mapping[str, Classes] | None,
    weights: str | Path | None,
    pretrained: bool,
) -> tuple[DenseModel, ModelSections]:
    """Builds the model of `densevit.create_model`, in evaluation mode. Returns the model and its sections."""
    if weights is not None and not pretrained:
        raise ConfigError(
            f"create_model: pretrained=False loads no weights, but weights={weights} is set. Fix: omit one."
        )
    sections: ModelSections
    if heads is None:
        config = _config(backbone)
        if weights is not None:
            config = settled(with_value(config, WEIGHTS, str(weights)), typed=(WEIGHTS,))
        for line in config.notes if pretrained else ():
            warnings.warn(line, stacklevel=3)
        if classes is None:
            dataset = build_data(config).train
            config = with_channels(config, dataset)
            classes = classes_by_head(config, dataset)
        sections = config
    else:
        values: dict[str, Any] = {"weights": None if weights is None else str(weights), "backbone": _section(backbone)}
        values["heads"] = {name: _section(head) for name, head in heads.items()}
        sections = configs.model_sections(values, "create_model")
        check_weights(sections, Sources(typed=typed_keys(values)))
    head_classes = _classes_by_head(sections, classes or {})
    if not pretrained:
        model = build_from_sections(sections, head_classes, pretrained=False)
    else:
        checkpoints = {} if weights is None else {str(weights): read(weights)}
        if weights is not None and not resolve(sections, head_classes, checkpoints).checkpoints[str(weights)].heads:
            sections = with_value(with_value(sections, WEIGHTS, None), BACKBONE_WEIGHTS, str(weights))
        model, loaded = build_pretrained(sections, head_classes, checkpoints)
        _warn(loaded, stacklevel=4)
    add_adapters(model)
    assert model.sections is not None
    return model.eval(), model.sections


def build_pretrained(
    sections: ModelSections, classes: Mapping[str, Sequence[Class]], checkpoints: Mapping[str, Checkpoint] = NO_FILES
) -> tuple[DenseModel, list[StateDictMatch]]:
    """Builds a model and loads the pretrained weights that its sections name. Returns the model, whose `sections` are
    the resolved ones, and one report per source. The parameters are those of `resolve`."""
    resolved = resolve(sections, classes, checkpoints)
    model = build_from_sections(resolved.sections, classes)
    return model, load_pretrained(model, resolved)


def build_model(
    config: Config, classes: Mapping[str, Sequence[Class]] | Dataset, pretrained: bool = True
) -> DenseModel:
    """Builds the model of a config with random weights; for pretrained weights see `build_pretrained`.

    classes: the classes of each task; or the data set, which also sets the channels of the images (`with_channels`).
    pretrained: the parameter of `build_from_sections`.

    Example:
        >>> from densevit import config
        >>> recipe = config.load("setr_vit")
        >>> [*densevit.build_model(recipe, densevit.build_data(recipe).classes).heads]
        ['segmentation']
    """
    if isinstance(classes, Dataset):
        config = with_channels(config, classes)
    return build_from_sections(config, classes_by_head(config, classes), pretrained)


def create_backbone(
    name: str, weights: str | Path | None = None, weights_allow: Sequence[str] = (), **options: Any
) -> Backbone:
    """Builds a backbone by its plugin name.

    weights: pretrained weights as in `backbone.weights`, which also set mean, std, the channels of the images and the
    options of the code that trained them (`layout_options`); None or "random": random weights.
    weights_allow: name patterns of tensors that may be missing, unexpected or of another shape.
    options: arguments of the plugin's constructor.
    The layers are the papers'; `DenseModel` replaces them with faster ones that compute the same results.

    Example:
        >>> densevit.create_backbone("resnet", depth=50).channels
        (256, 512, 1024, 2048)
    """
    if weights is not None and options.get("pretrained") is True:
        raise ConfigError(f"create_backbone: weights={weights} and pretrained=True are both set. Fix: omit one.")
    if weights in (None, RANDOM):
        return model_factory.build_backbone(name, **options)
    checkpoint = read(weights)
    images = channels_of(checkpoint)
    values = {**images, "name": name, **options, "weights": str(weights), "weights_allow": tuple(weights_allow)}
    section = configs.section("backbone", values, "create_backbone")
    model, loaded = build_pretrained(ModelSections(backbone=section, heads={}), {}, {str(weights): checkpoint})
    _warn(loaded, stacklevel=3)
    return model.backbone


def _warn(loaded: Sequence[StateDictMatch], stacklevel: int) -> None:
    """Shows the warnings of loaded weights as Python warnings; a run prints them with its table of tensors."""
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


def _section(section: Any) -> Any:
    return {"name": section} if isinstance(section, str) else section


def _classes_by_head(sections: ModelSections, classes: Classes | Mapping[str, Classes]) -> dict[str, tuple[Class, ...]]:
    """The classes of each head. classes: a list for a single head, or lists by head or task."""
    tasks = tasks_of(sections)
    if not isinstance(classes, Mapping):
        if len(tasks) != 1:
            raise ConfigError(
                f"create_model: a list of classes for {len(tasks)} heads. Expected classes by head: "
                f"classes={{{', '.join(f'{name!r}: [...]' for name in tasks)}}}."
            )
        classes = dict.fromkeys(tasks, classes)
    for name in classes:
        if name not in (names := {*tasks, *tasks.values()}):
            raise ConfigError(
                f"create_model: classes has the key {name!r}, which is not a head.{did_you_mean(name, names)}"
            )
    return {name: _classes(classes.get(name, classes.get(task, ()))) for name, task in tasks.items()}


def _classes(classes: Classes) -> tuple[Class, ...]:
    return tuple(c if isinstance(c, Class) else Class(c, i, color_of(i)) for i, c in enumerate(classes))
