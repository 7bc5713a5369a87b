"""Builds models from config sections, and backbones, necks and heads by name."""

from collections.abc import Iterable, Mapping, Sequence
from numbers import Integral, Real
from typing import Any

from torch import nn

from densevit import registry
from densevit.channels import RGB
from densevit.config import BackboneSection, ModelSections
from densevit.errors import ConfigError, one_line
from densevit.interfaces import Backbone, Class, Classes, Dataset, Head, Neck, as_classes
from densevit.layers.fast.replacement import replace_layers
from densevit.model.dense import DenseModel
from densevit.model.freezing import freeze_backbone, freeze_head
from densevit.model.stem_channels import adapted_state
from densevit.registry.plugin_options import OptionError


def build_backbone(name: str, **options: Any) -> Backbone:
    """Builds a backbone with random weights by its plugin name. options: arguments of its constructor."""
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
    images = options.get("in_channels", 3)
    for attribute, counts in (("mean", (3, images)), ("std", (3, images)), ("input_size", (2,))):
        value = getattr(backbone, attribute)
        numbers = [isinstance(n, Real) for n in value] if isinstance(value, Iterable) else []
        if not (all(numbers) and len(numbers) in counts) and not (attribute == "input_size" and value is None):
            per_channel = "three numbers (red, green, blue)" if images == 3 else f"{images} numbers, one per channel"
            expected = "(height, width) or None" if attribute == "input_size" else per_channel
            raise ConfigError(f"backbone {name!r} has {attribute} {value!r}; expected: {expected}.")
    if len(backbone.channels) != len(backbone.strides):
        raise ConfigError(
            f"backbone {name!r} has {len(backbone.channels)} channels and {len(backbone.strides)} strides; "
            "one of each per feature map is expected."
        )
    return backbone


def backbone_from(section: BackboneSection, pretrained: bool = True) -> Backbone:
    """Builds the backbone of a section for the section's image channels.

    pretrained: False builds it without the weights that its constructor would load. RGB weights are adapted to other
    channels by name.
    """
    channels, options, plain = section.channels or RGB, section.options, section.unloaded_options
    if not (channels.dtype and channels.range):
        raise ConfigError("backbone.channels: dtype and range are missing. Fix: leave it out; training sets it.")
    count = len(channels.names)
    in_channels = options.pop("in_channels", count)
    plain.pop("in_channels", None)
    if in_channels != count:
        raise ConfigError(f"backbone.in_channels is {in_channels}, but the images have {channels}. Fix: leave it out.")
    stem = {} if count == len(RGB.names) else {"in_channels": count}
    try:
        backbone = build_backbone(section.name, **(options if pretrained and not stem else plain), **stem)
    except OptionError as error:
        if error.key != "backbone.in_channels":
            raise
        raise ConfigError(
            f"backbone {section.name!r} takes images of three channels, and the images have {count}: "
            f"{channels}. Fix: use another backbone, or let its constructor take in_channels."
        ) from error
    if pretrained and options != plain and channels.names != RGB.names:
        published = build_backbone(section.name, **options)
        backbone.licences = published.licences
        try:
            backbone.load_state_dict(adapted_state(published.state_dict(), section, RGB.names)[0])
        except RuntimeError as error:
            raise ConfigError(
                f"backbone.pretrained: the first layer of {section.name!r} is not a convolution, so it "
                f"cannot be adapted to {count} ({one_line(error)}). Fix: pretrained=false."
            ) from error
    backbone.image_channels = channels
    if section.black_padding is not None:
        backbone.black_padding = section.black_padding
    for key in ("mean", "std"):
        values = getattr(section, key) or channels.per_channel(getattr(backbone, key))
        setattr(backbone, key, values)
        if len(values) != count:
            raise ConfigError(f"backbone.{key} is {[*values]}; one number for each of {count} channels is expected.")
    return backbone


def create_head(name: str, channels: Sequence[int], strides: Sequence[int], classes: Classes, **options: Any) -> Head:
    """Builds a head by its plugin name. channels, strides: the channels and strides of the features. classes: `Class`es
    or names, or their number.

    Example:
        >>> backbone = densevit.create_backbone("resnet", depth=18)
        >>> densevit.create_head("dpt", backbone.channels, backbone.strides, classes=[]).task
        'depth'
    """
    return registry.create(
        "heads", name, tuple(channels), tuple(strides), as_classes(classes), options=options, where=f"head {name!r}"
    )


def create_neck(name: str, channels: Sequence[int], strides: Sequence[int], **options: Any) -> Neck:
    """Builds a neck by its plugin name. channels, strides: the channels and strides of the features.

    Example:
        >>> densevit.create_neck("fpn", channels=[128, 256, 512], strides=[8, 16, 32], width=64).channels
        (64, 64, 64)
    """
    return registry.create("necks", name, tuple(channels), tuple(strides), options=options, where=f"neck {name!r}")


def classes_by_head(
    sections: ModelSections, classes: Mapping[str, Sequence[Class]] | Dataset
) -> dict[str, Sequence[Class]]:
    """The classes of each head. classes: the classes of each task, or the data set that heads take their classes
    from."""
    kinds = kinds_of(sections)
    if isinstance(classes, Dataset):
        return {name: kind.classes_from(classes) for name, kind in kinds.items()}
    return {name: classes.get(str(kind.task), ()) for name, kind in kinds.items()}


def tasks_of(sections: ModelSections) -> dict[str, str]:
    """The task of each head."""
    return {name: str(kind.task) for name, kind in kinds_of(sections).items()}


def kinds_of(sections: ModelSections) -> dict[str, type[Head]]:
    """The Python class of each head, which determines its task and classes."""
    return {name: registry.load("heads", head.name) for name, head in sections.heads.items()}


def build_from_sections(
    sections: ModelSections,
    classes: Mapping[str, Sequence[Class]],
    pretrained: bool = True,
    backbone: Backbone | None = None,
) -> DenseModel:
    """Builds a model with random weights.

    classes: each head's classes. pretrained: False if all weights are loaded afterwards, see
    `BackboneSection.unloaded_options`. backbone: replaces the section's backbone if it is given.
    """
    section = sections.backbone
    backbone = backbone_from(section, pretrained) if backbone is None else backbone
    heads: dict[str, Head] = {}
    necks: dict[str, Neck] = {}
    for name, head in sections.heads.items():
        where, feeding = f"heads.{name}", (backbone.channels, backbone.strides)
        if head.neck is not None:
            options = head.neck.options
            neck = registry.create("necks", head.neck.name, *feeding, options=options, where=f"{where}.neck")
            necks[name], feeding = neck, (neck.channels, neck.strides)
        arguments = (*feeding, tuple(classes.get(name, ())))
        heads[name] = registry.create("heads", head.name, *arguments, options=head.options, where=where)
    loss_weights = {name: head.loss_weight for name, head in sections.heads.items()}
    model = DenseModel(backbone, heads, necks, loss_weights, sections)
    parts: list[tuple[Any, nn.Module]] = [(section, backbone), *((sections.heads[x], heads[x]) for x in heads)]
    for named, part in [*parts, *((sections.heads[x].neck, neck) for x, neck in necks.items())]:
        if sections.replace_layers and part is not getattr(named.name, "instance", None):  # it keeps its layers
            replace_layers(part)
    freeze_backbone(backbone, section.freeze, section.adapted_stem)
    for name, head in sections.heads.items():
        freeze_head(heads[name], necks.get(name), head.freeze, f"heads.{name}.freeze")
    return model.train()
