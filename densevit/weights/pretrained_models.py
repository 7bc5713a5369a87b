"""Builds models and backbones with pretrained weights."""

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from densevit import config as configs
from densevit.config import ModelSections
from densevit.config.values import RANDOM
from densevit.errors import ConfigError
from densevit.interfaces import Backbone, Class
from densevit.model import DenseModel, build_backbone, build_from_sections
from densevit.weights.checkpoint import Checkpoint
from densevit.weights.checkpoint_io import read
from densevit.weights.pretrained import load_pretrained
from densevit.weights.resolving import NO_FILES, resolve
from densevit.weights.state_dict_loading import StateDictMatch
from densevit.weights.translated_checkpoint import channels_of

Section = str | Mapping[str, Any]


def build_pretrained(
    sections: ModelSections, classes: Mapping[str, Sequence[Class]], checkpoints: Mapping[str, Checkpoint] = NO_FILES
) -> tuple[DenseModel, list[StateDictMatch]]:
    """Builds a model and loads the pretrained weights that its sections name. Returns the model, whose `sections` are
    the resolved ones, and one report per source. The parameters are those of `resolve`."""
    resolved = resolve(sections, classes, checkpoints)
    model = build_from_sections(resolved.sections, classes)
    return model, load_pretrained(model, resolved)


def create_backbone(
    name: Section, weights: str | Path | None = None, weights_allow: Sequence[str] = (), **options: Any
) -> Backbone:
    """Builds a backbone.

    name: a plugin's name, or a section `backbone` as a mapping.
    weights: pretrained weights as in `backbone.weights`, which also set mean, std, the channels of the images and the
    options of the code that trained them (`layout_options`); None or "random": random weights.
    weights_allow: name patterns of tensors that may be missing, unexpected or of another shape.
    options: arguments of the plugin's constructor.
    The layers are the papers'; `DenseModel` replaces them with faster ones that compute the same results.

    Example:
        >>> densevit.create_backbone("resnet", depth=50).channels
        (256, 512, 1024, 2048)
    """
    if not isinstance(name, str):
        return create_backbone(**{**name, **options, **({} if weights is None else {"weights": weights})})
    if weights is not None and options.get("pretrained") is True:
        raise ConfigError(f"create_backbone: weights={weights} and pretrained=True are both set. Fix: omit one.")
    if weights in (None, RANDOM):
        return build_backbone(name, **options)
    checkpoint = read(weights)
    images = channels_of(checkpoint)
    values = {**images, "name": name, **options, "weights": str(weights), "weights_allow": tuple(weights_allow)}
    section = configs.section("backbone", values, "create_backbone")
    model, loaded = build_pretrained(ModelSections(backbone=section, heads={}), {}, {str(weights): checkpoint})
    warn_of(loaded, stacklevel=3)
    return model.backbone


def warn_of(loaded: Sequence[StateDictMatch], stacklevel: int) -> None:
    """Shows the warnings of loaded weights as Python warnings; a run prints them with its table of tensors."""
    for message in dict.fromkeys(message for fit in loaded for message in fit.warnings):
        warnings.warn(message, stacklevel=stacklevel)
