"""Initial weights: `weights` is for the complete model; where it is null, the weights of the parts count.

These are `backbone.weights`, `heads.NAME.weights`, `heads.NAME.neck.weights` and `backbone.pretrained: true`, which
makes a backbone load weights in its constructor, as timm's does.
"""

from dataclasses import replace
from typing import Any, TypeVar

from densevit.config.config_layers import BACKBONE, BACKBONE_WEIGHTS, PRETRAINED, WEIGHTS, Key
from densevit.config.model_schema import ModelSections
from densevit.config.schema import Config
from densevit.config.values import RANDOM, with_value
from densevit.errors import ConfigError

Sections = TypeVar("Sections", bound=ModelSections)


def settled(sections: Sections) -> Sections:
    """The sections with one source of weights per tensor: `weights` overrides a part's of lower layers, with a line in
    `notes`.

    Raises ConfigError if a part's weights, or another backbone, are not of a lower layer than `weights`, and for a
    backbone with two sources.
    """
    by_key: dict[Key, Any] = {
        BACKBONE_WEIGHTS: sections.backbone.weights,
        PRETRAINED: sections.backbone.options.get("pretrained") is True or None,
        **{("heads", name, "weights"): head.weights for name, head in sections.heads.items()},
        **{("heads", x, "neck", "weights"): head.neck.weights for x, head in sections.heads.items() if head.neck},
    }
    parts = {key: _shown(sections, key, value) for key, value in by_key.items() if value is not None}
    if parts.keys() >= {BACKBONE_WEIGHTS, PRETRAINED}:
        raise ConfigError(
            f"{parts[BACKBONE_WEIGHTS]} and {parts[PRETRAINED]} set weights of the same tensors. Fix: keep one."
        )
    if sections.weights is None:
        return sections
    layer, weights = sections._layer, _shown(sections, WEIGHTS, sections.weights)
    if layer.is_above(BACKBONE, WEIGHTS):
        raise ConfigError(
            f"{weights} is for the complete model, and {_shown(sections, BACKBONE, sections.backbone.name)} is another "
            "backbone. Fix: weights=null, with backbone.weights and heads.NAME.weights for its parts, or leave out the "
            "backbone."
        )
    result = sections.model_copy()
    for key, part in parts.items():
        if not layer.is_above(WEIGHTS, key):
            raise ConfigError(
                f"{weights} and {part} set weights of the same tensors. Fix: weights=null, with the weights of each "
                f"part, or leave out {'.'.join(key)}."
            )
        result = with_value(result, key, False if key == PRETRAINED else None)
    result._layer = replace(
        layer, notes=(*layer.notes, *(f"{part} gives way to {weights}." for part in parts.values()))
    )
    return result


def check_backbone(config: Config) -> None:
    """Raises ConfigError for a backbone of a higher layer than its weights, as in `paper/coco backbone.name=mynet`."""
    section = config.backbone
    if section.source is None or not config._layer.is_above(BACKBONE, BACKBONE_WEIGHTS):
        return
    weights, name = _shown(config, BACKBONE_WEIGHTS, section.weights), _shown(config, BACKBONE, section.name)
    command = f"densevit train {config._layer.source} ... backbone.name={section.name} backbone.weights="
    raise ConfigError(
        f"{weights} is for another backbone than {name}. Fix: {command}SOURCE, a file, timm:NAME or torchvision:NAME; "
        f"or, from random weights, {command}{RANDOM}."
    )


def _shown(sections: ModelSections, key: Key, value: Any) -> str:
    """A key with its value and source: backbone.weights=timm:resnet18 (mine.yaml)."""
    source = sections._layer.source_of(key)
    return f"{'.'.join(key)}={'true' if value is True else value}" + (f" ({source})" if source else "")
