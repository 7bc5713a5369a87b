"""Builds models from configs, and backbones and heads by name."""

from collections.abc import Iterable, Mapping, Sequence
from numbers import Integral, Real
from typing import Any

from densevit import registry
from densevit.config import Config, ModelSections, rename_options
from densevit.errors import ConfigError
from densevit.interfaces import Backbone, Class, Dataset, Head, Neck
from densevit.layers.replacement import replace_layers
from densevit.model.dense import DenseModel
from densevit.model.freezing import freeze_backbone, freeze_head


def create_backbone(name: str, **options: Any) -> Backbone:
    """Builds a backbone with random weights by its plugin name. Options are checked against its constructor."""
    backbone = registry.create("backbones", name, options=options, where="backbone")
    for attribute in ("channels", "strides"):
        value = getattr(backbone, attribute, None)
        if not value:
            raise ConfigError(
                f"backbone {name!r} has no {attribute!r}. Fix: set one value per feature map in its constructor."
            )
        if not (isinstance(value, Sequence) and all(isinstance(n, Integral) and int(n) > 0 for n in value)):
            raise ConfigError(
                f"backbone {name!r} has {attribute} {value!r}; positive integers are expected, as in (96, 192)."
            )
    for attribute, count in (("mean", 3), ("std", 3), ("input_size", 2)):
        value = getattr(backbone, attribute)
        numbers = [isinstance(n, Real) for n in value] if isinstance(value, Iterable) else []
        if numbers != [True] * count and not (attribute == "input_size" and value is None):
            expected = "three numbers (red, green, blue)" if count == 3 else "(height, width) or None"
            raise ConfigError(f"backbone {name!r} has {attribute} {value!r}; expected: {expected}.")
    if len(backbone.channels) != len(backbone.strides):
        raise ConfigError(
            f"backbone {name!r} has {len(backbone.channels)} channels and {len(backbone.strides)} strides; "
            "one of each per feature map is expected."
        )
    return backbone


def options_without_weights(options: Mapping[str, Any]) -> dict[str, Any]:
    """The options of a backbone that then loads no weights itself, as timm's does with `pretrained: true`."""
    return {key: False if key == "pretrained" and value is True else value for key, value in options.items()}


def create_head(
    name: str, channels: Sequence[int], strides: Sequence[int], classes: Sequence[Class], **options: Any
) -> Head:
    """Builds a head by its plugin name, for features with these channels and strides, and for these classes."""
    return registry.create(
        "heads", name, tuple(channels), tuple(strides), tuple(classes), options=options, where=f"head {name!r}"
    )


def create_neck(name: str, channels: Sequence[int], strides: Sequence[int], **options: Any) -> Neck:
    """Builds a neck by its plugin name, for features with these channels and strides."""
    neck: Neck = registry.create(
        "necks", name, tuple(channels), tuple(strides), options=options, where=f"neck {name!r}"
    )
    return neck


def build_model(
    config: Config, classes: Mapping[str, Sequence[Class]] | Dataset, pretrained: bool = True
) -> DenseModel:
    """Builds the model that a config describes, with random weights.

    classes: by task, or the data set that each head takes its own from. pretrained: see `build_from_sections`.
    `weights.pretrained.load_pretrained` loads weights.
    """
    sections = config.model_sections
    by_head: dict[str, Sequence[Class]]
    if isinstance(classes, Dataset):
        by_head = {name: kind.classes_from(classes) for name, kind in kinds_of(sections).items()}
    else:
        by_head = {name: classes.get(task, ()) for name, task in tasks_of(sections).items()}
    return build_from_sections(sections, by_head, pretrained)


def tasks_of(sections: ModelSections) -> dict[str, str]:
    """The task of each head."""
    return {name: str(kind.task) for name, kind in kinds_of(sections).items()}


def kinds_of(sections: ModelSections) -> dict[str, type[Head]]:
    """The class of each head, which determines its task and classes."""
    rename_options(sections)
    return {name: registry.load("heads", section.name) for name, section in sections.heads.items()}


def build_from_sections(
    sections: ModelSections, classes: Mapping[str, Sequence[Class]], pretrained: bool = True
) -> DenseModel:
    """Builds the model of these sections, with random weights.

    classes: those of each head, by its name. pretrained: False where all weights are loaded afterwards: see
    `options_without_weights`.
    """
    rename_options(sections)
    options = sections.backbone.options
    backbone = create_backbone(sections.backbone.name, **(options if pretrained else options_without_weights(options)))
    backbone.mean = sections.backbone.mean or backbone.mean
    backbone.std = sections.backbone.std or backbone.std
    heads: dict[str, Head] = {}
    necks: dict[str, Neck] = {}
    for name, section in sections.heads.items():
        channels, strides = backbone.channels, backbone.strides
        if section.neck is not None:
            neck = registry.create(
                "necks",
                section.neck.name,
                channels,
                strides,
                options=section.neck.options,
                where=f"heads.{name}.neck",
            )
            necks[name] = neck
            channels, strides = neck.channels, neck.strides
        heads[name] = registry.create(
            "heads",
            section.name,
            channels,
            strides,
            tuple(classes.get(name, ())),
            options=section.options,
            where=f"heads.{name}",
        )
    model = DenseModel(backbone, heads, necks, {name: s.weight for name, s in sections.heads.items()}, sections)
    freeze_backbone(backbone, sections.backbone.freeze)
    for name, section in sections.heads.items():
        freeze_head(heads[name], necks.get(name), section.freeze, f"heads.{name}.freeze")
    replace_layers(model)
    return model.train()
