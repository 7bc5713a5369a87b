"""Initial weights: `weights` is for the complete model; where it is null, the weights of the parts count.

These are `backbone.weights`, `heads.NAME.weights` and `backbone.pretrained: true`, which makes a backbone load weights
in its constructor, as timm's does.
"""

from collections.abc import Collection
from dataclasses import replace
from typing import Any

from densevit.config.model_schema import ModelSections
from densevit.config.schema import Config
from densevit.config.sources import BACKBONE, BACKBONE_WEIGHTS, PRETRAINED, WEIGHTS, Key, Sources
from densevit.config.values import RANDOM, with_value
from densevit.errors import ConfigError


def settled(config: Config, typed: Collection[Key] | None = None) -> Config:
    """The config with one source of weights per tensor: `weights` overrides a part's, with a line in `notes`.

    typed: the typed keys; None: from the config's sources. Raises ConfigError as `check_weights`.
    """
    sources = config._sources if typed is None else replace(config._sources, typed=typed)
    parts = check_weights(config, sources)
    lines = [f"{_shown(sources, *part)} gives way to {_shown(sources, WEIGHTS, config.weights)}." for part in parts]
    for key, value in parts:
        config = with_value(config, key, False if value is True else None)
    config = config.model_copy()
    config._sources = replace(sources, notes=(*sources.notes, *lines))
    return config


def check_weights(sections: ModelSections, sources: Sources) -> list[tuple[Key, Any]]:
    """The keys and values of parts that `weights` overrides.

    Raises ConfigError if these keys are typed, if another backbone is typed and `weights` is not, and for a backbone
    with two sources.
    """
    by_key: dict[Key, Any] = {BACKBONE_WEIGHTS: sections.backbone.weights}
    by_key[PRETRAINED] = sections.backbone.options.get("pretrained") is True or None
    by_key |= {("heads", name, "weights"): head.weights for name, head in sections.heads.items()}
    parts = [(key, value) for key, value in by_key.items() if value is not None]
    if [key for key, _ in parts[:2]] == [BACKBONE_WEIGHTS, PRETRAINED]:
        first, second = (_shown(sources, *part) for part in parts[:2])
        raise ConfigError(f"{first} and {second} set weights of the same tensors. Fix: keep one.")
    if sections.weights is None:
        return []
    model_weights = _shown(sources, WEIGHTS, sections.weights)
    if BACKBONE in sources.typed and WEIGHTS not in sources.typed:
        name = _shown(sources, BACKBONE, sections.backbone.name)
        raise ConfigError(
            f"{model_weights} is for the complete model, and {name} is another backbone. Fix: weights=null, with "
            "backbone.weights and heads.NAME.weights for its parts, or leave out the backbone."
        )
    for part in parts:
        if part[0] in sources.typed:
            raise ConfigError(
                f"{model_weights} and {_shown(sources, *part)} set weights of the same tensors. Fix: weights=null, "
                f"with the weights of each part, or leave out {'.'.join(part[0])}."
            )
    return parts


def check_backbone(config: Config) -> None:
    """Raises ConfigError if another backbone is typed over a recipe with backbone weights, as in
    `paper/coco backbone.name=mynet`."""
    sources, section = config._sources, config.backbone
    is_chosen = BACKBONE in sources.typed and BACKBONE_WEIGHTS not in sources.typed
    if section.source is None or not is_chosen or sources.of(BACKBONE) == sources.of(BACKBONE_WEIGHTS):
        return
    weights, name = _shown(sources, BACKBONE_WEIGHTS, section.weights), _shown(sources, BACKBONE, section.name)
    command = f"densevit train {sources.of(())} ... backbone.name={section.name} backbone.weights="
    raise ConfigError(
        f"{weights} is for another backbone than {name}. Fix: {command}SOURCE, a file, timm:NAME or torchvision:NAME; "
        f"or, from random weights, {command}{RANDOM}."
    )


def _shown(sources: Sources, key: Key, value: Any) -> str:
    """A key with its value and source: backbone.weights=timm:resnet18 (mine.yaml)."""
    source = sources.of(key)
    return f"{'.'.join(key)}={'true' if value is True else value}" + (f" ({source})" if source else "")
