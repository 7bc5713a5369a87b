"""The keys that name a model's initial weights, and which of them takes precedence for the same tensors.

`weights` names those of the whole model, `backbone.weights` and `heads.NAME.weights` those of a part;
`backbone.pretrained: true` loads weights in the backbone's constructor, as timm's does. The key from the source with
the smaller rank takes precedence (`Source.rank`); of one rank the whole model does, and `pretrained` last.
"""

import re
from collections.abc import Mapping
from typing import Any, TypeVar

from densevit.config.model_schema import BackboneSection, HeadSection, ModelSections
from densevit.config.schema import Config
from densevit.config.sources import ARGUMENT, TYPED, Key, Source, Sources
from densevit.config.values import RANDOM, with_value
from densevit.errors import ConfigError

Model = TypeVar("Model", bound=ModelSections)

_WHOLE: Key = ("weights",)


def settle(config: Config) -> Config:
    """The config in which no tensor has two sources, whatever their ranks were.

    A key that loses is set to null, and `pretrained` to false. Where a part takes precedence over `weights`, these
    become the `weights` of the other parts. Whether a head has two sources is known when the weights are read, see
    `load_pretrained`. Raises ConfigError for two keys on the command line.
    """
    settled = config.model_copy()
    settled._sources = Sources(dict(config._sources.by_key), [*config.set_aside])
    return _settle_parts(_settle_pretrained(settled))


def use_argument(sections: Model, weights: str) -> Model:
    """The sections with `weights`, an argument of a Python function, which precedes all weights of a config.

    Raises ConfigError if the sections, other arguments of that function, name weights of the backbone too.
    """
    given, sections = sections.weights, sections.model_copy(update={"weights": weights})
    if isinstance(sections, Config):
        if given is not None:
            sections.set_aside.append(f"Set aside: weights={given}, for weights={weights} (an argument).")
        sections._sources.by_key[_WHOLE] = Source("an argument", ARGUMENT)
        return settle(sections)  # type: ignore[return-value]
    for name, is_given in (
        ("weights", sections.backbone.weights is not None),
        ("pretrained", _is_pretrained(sections.backbone.options)),
    ):
        if is_given:
            raise _conflict(sections, _WHOLE, ("backbone", name))
    return sections


def check_backbone(config: Config) -> None:
    """Raises ConfigError if the weights of the backbone are those of a file that another source names a backbone over,
    as in `paper/coco backbone.name=mynet`."""
    rank, section = config._sources.rank, config.backbone
    if section.source is None or rank(("backbone", "weights")) <= rank(("backbone", "name")):
        return
    weights, name = (_shown(config, ("backbone", key)) for key in ("weights", "name"))
    command = f"densevit train {config._sources.of(())} ... backbone.name={section.name} backbone.weights="
    raise ConfigError(
        f"{weights} is of another backbone than {name}. Fix: {command}SOURCE, a file, timm:NAME or torchvision:NAME; "
        f"or, from random weights, {command}{RANDOM}."
    )


def check_parts(sections: ModelSections) -> None:
    """Raises ConfigError if the backbone would load weights in its constructor and from `weights`."""
    if sections.backbone.weights is not None and _is_pretrained(sections.backbone.options):
        raise _conflict(sections, ("backbone", "weights"), ("backbone", "pretrained"))


def note_replaced(sections: ModelSections, part: Key, what: str) -> None:
    """Notes that `weights` take precedence over a part's. Raises ConfigError if the user typed both. what: how many of
    the part's tensors are replaced."""
    if not isinstance(sections, Config) or not _precedes(sections, _WHOLE, part):
        raise _conflict(sections, _WHOLE, part)
    kept = f"for {_shown(sections, _WHOLE)}"
    sections.set_aside.append(f"Set aside: {what} of {_shown(sections, part)}, {kept}.")


def allows_part(patterns: tuple[str, ...], part: str) -> bool:
    """Whether a pattern of `weights_allow` matches some tensors of a part, `backbone.` or `heads.NAME.`"""
    literal = [re.split(r"[*?\[]", pattern)[0] for pattern in patterns]
    return any(text.startswith(part) or part.startswith(text) for text in literal)


def _settle_pretrained(config: Config) -> Config:
    """Chooses between `weights` and `pretrained` of the backbone, and of backbones among the method's options."""
    backbone, at = config.backbone, ("backbone",)
    if backbone.weights is not None and _is_pretrained(backbone.options) and not backbone.weights_allow:
        kept = "weights" if _precedes(config, (*at, "weights"), (*at, "pretrained")) else "pretrained"
        config = _set_aside(config, (*at, "pretrained" if kept == "weights" else "weights"), (*at, kept))
    for name, option in config.method.options.items():
        if not (isinstance(option, Mapping) and option.get("weights") is not None and _is_pretrained(option)):
            continue
        weights, pretrained = ("method", name, "weights"), ("method", name, "pretrained")
        if option.get("weights_allow"):
            continue
        if _precedes(config, weights, pretrained):
            config = _set_aside(config, pretrained, weights)
        else:
            config = _set_aside(config, weights, pretrained)
    return config


def _settle_parts(config: Config) -> Config:
    """Chooses between `weights` and the weights of the parts."""
    if config.weights is None:
        return config
    first = set[str]()  # the parts that take precedence
    backbone: Key | None = None
    if config.backbone.weights is not None or _is_pretrained(config.backbone.options):
        backbone = ("backbone", "weights" if config.backbone.weights is not None else "pretrained")
        if not _precedes(config, _WHOLE, backbone):
            first.add("backbone")
        elif not allows_part(config.weights_allow, "backbone."):
            config = _set_aside(config, backbone, _WHOLE)
    for name, head in config.heads.items():
        key = ("heads", name, "weights")
        if head.weights is not None and config._sources.rank(key) < config._sources.rank(_WHOLE):
            first.add(name)
    return _distribute(config, first, backbone) if first else config


def _distribute(config: Config, first: set[str], backbone: Key | None) -> Config:
    """Replaces `weights` by the same weights of each part, except those that take precedence."""
    whole, allow, source = config.weights, config.weights_allow, config._sources.by_key.get(_WHOLE)
    parts: dict[Key, BackboneSection | HeadSection] = {("backbone",): config.backbone}
    parts |= {("heads", name): head for name, head in config.heads.items()}
    loaded = []
    for key, section in parts.items():
        if key[-1] in first:
            continue
        if section.weights is not None:
            config = _set_aside(config, (*key, "weights"), _WHOLE)
        config = with_value(config, (*key, "weights"), whole)
        config = with_value(config, (*key, "weights_allow"), _of_part(allow, ".".join(key) + "."))
        if source is not None:
            config._sources.by_key[(*key, "weights")] = source
        loaded.append(".".join((*key, "weights")))
    kept = [backbone if name == "backbone" else ("heads", name, "weights") for name in sorted(first)]
    reason = " and ".join(_shown(config, key) for key in kept if key)
    rest = f" The rest is loaded as {' and '.join(loaded)}." if loaded else ""
    config.set_aside.append(
        f"Set aside in {_shown(config, _WHOLE)}: {' and '.join(sorted(first))}, for {reason}.{rest}"
    )
    return config.model_copy(update={"weights": None, "weights_allow": ()})


def _of_part(patterns: tuple[str, ...], part: str) -> tuple[str, ...]:
    """Patterns of the model's tensors as patterns of a part's tensors."""
    return tuple(
        "*" if part.startswith(pattern.removesuffix("*")) else pattern.removeprefix(part)
        for pattern in patterns
        if allows_part((pattern,), part)
    )


def _is_pretrained(options: Mapping[str, Any]) -> bool:
    return options.get("pretrained") is True


def _precedes(config: Config, first: Key, second: Key) -> bool:
    """Whether the first of two keys takes precedence, which it does at equal ranks."""
    ranks = [config._sources.rank(key) for key in (first, second)]
    if ranks == [TYPED, TYPED]:
        raise _conflict(config, first, second)
    return ranks[0] <= ranks[1]


def _conflict(sections: ModelSections, first: Key, second: Key) -> ConfigError:
    fix = "keep one; heads.NAME.weights loads a head alone" if first == _WHOLE else "keep one"
    both = f"{_shown(sections, first)} and {_shown(sections, second)}"
    return ConfigError(f"{both} name weights of the same tensors. Fix: {fix}.")


def _set_aside(config: Config, key: Key, kept: Key) -> Config:
    """The config in which a key is null, or `pretrained` false, and a note of it."""
    config.set_aside.append(f"Set aside: {_shown(config, key)}, for {_shown(config, kept)}.")
    return with_value(config, key, False if key[-1] == "pretrained" else None)


def _shown(sections: ModelSections, key: Key) -> str:
    """A key with its value and source: backbone.weights=timm:resnet18 (mine.yaml)."""
    value: Any = sections.model_dump()
    for name in key:
        value = value[name]
    source = sections._sources.of(key) if isinstance(sections, Config) else ""
    return f"{'.'.join(key)}={str(value).lower() if value is True else value}" + (f" ({source})" if source else "")
