"""Builds models and backbones with pretrained weights."""

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from densevit import config as configs
from densevit.config import ModelSections
from densevit.config.values import as_section
from densevit.errors import ConfigError
from densevit.interfaces import RGB, Backbone, Channels, Class
from densevit.model import DenseModel, build_from_sections
from densevit.weights.checkpoint import Checkpoint
from densevit.weights.checkpoint_io import read
from densevit.weights.pretrained import load_pretrained
from densevit.weights.resolving import resolve
from densevit.weights.state_dict_loading import StateDictMatch
from densevit.weights.translated_checkpoint import channels_of

Section = str | Mapping[str, Any]


def build_pretrained(
    sections: ModelSections,
    classes: Mapping[str, Sequence[Class]],
    checkpoints: Mapping[str, Checkpoint] = MappingProxyType({}),
) -> tuple[DenseModel, list[StateDictMatch]]:
    """Builds a model and loads the pretrained weights that its sections name. Returns the model, whose `sections` are
    the resolved ones, and one report per source. The parameters are those of `resolve`."""
    resolved = resolve(sections, classes, checkpoints)
    model = build_from_sections(resolved.sections, classes)
    return model, load_pretrained(model, resolved)


def create_backbone(
    name: Section,
    weights: str | Path | None = None,
    allow_mismatch: Sequence[str] = (),
    in_channels: int | None = None,
    **options: Any,
) -> Backbone:
    """Builds a backbone.

    name: a plugin's name; a name of weights, which are loaded: timm's, "timm:resnet18" or "resnet18", or "hf:ORG/NAME";
    or a section `backbone` as a mapping.
    weights: pretrained weights as in `backbone.weights`, which also set mean, std, the channels of the images and the
    options of the code that trained them (`layout_options`); None: those of the name, if any; "random": random weights.
    allow_mismatch: name patterns of tensors that may be missing, unexpected or of another shape.
    in_channels: the number of channels, as for `create_model`. options: arguments of the plugin's constructor, such as
    timm's `pretrained=False` for random weights.
    The layers are the papers'; `DenseModel` replaces them with faster ones that compute the same results.

    Example:
        >>> densevit.create_backbone("resnet", depth=50).channels
        (256, 512, 1024, 2048)
    """
    typed = {"weights": None if weights is None else str(weights), "allow_mismatch": tuple(allow_mismatch)}
    values = {**as_section(name), **options, **{key: value for key, value in typed.items() if value not in (None, ())}}
    section = configs.section("backbone", with_in_channels(values, in_channels), "create_backbone")
    checkpoints = {section.source: read(section.source)} if section.source else {}
    if section.source and in_channels is None:
        section = configs.section(
            "backbone",
            {**channels_of(checkpoints[section.source]), **section.model_dump(exclude_unset=True)},
            "create_backbone",
        )
    if section.source and section.options.get("pretrained") is True:
        raise ConfigError(f"create_backbone: weights={weights} and pretrained=True are both set. Fix: omit one.")
    model, loaded = build_pretrained(ModelSections(backbone=section, heads={}), {}, checkpoints)
    warn_of(loaded, stacklevel=3)
    return model.backbone


def with_in_channels(backbone: Any, count: int | None) -> Any:
    """The section of a backbone, or an object, for 8-bit images of `count` channels: grey for one; red, green and blue,
    and further ones, for three or more. None: as it is.

    Raises ConfigError for a section that sets them, and for a backbone that is built.
    """
    if count is None:
        return backbone
    section = as_section(backbone)
    if not isinstance(count, int) or count < 1:
        raise ConfigError(f"in_channels is {count!r}; it is a number of channels, 1 or more.")
    if section.get("channels") is not None or getattr(section["name"], "instance", None) is not None:
        raise ConfigError(f"in_channels={count}: the backbone sets the channels of its images. Fix: omit in_channels.")
    names = tuple(RGB.names[i] if i < 3 <= count else f"channel{i + 1}" for i in range(count))
    return {**section, "channels": Channels(names if count > 1 else ("grey",), range=RGB.range[:1] * count)}


def warn_of(loaded: Sequence[StateDictMatch], stacklevel: int) -> None:
    """Shows the warnings of loaded weights as Python warnings; a run prints them with its table of tensors."""
    for message in dict.fromkeys(message for fit in loaded for message in fit.warnings):
        warnings.warn(message, stacklevel=stacklevel)
