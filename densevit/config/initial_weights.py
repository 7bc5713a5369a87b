"""The keys that name a model's initial weights, and which of them takes precedence for the same tensors.

`weights` names those of the whole model, `backbone.weights` and `heads.NAME.weights` those of a part;
`backbone.pretrained: true` loads weights in the backbone's constructor, as timm's does. The key from the source with
the smaller rank takes precedence (`Source.rank`); of one rank the whole model does, and `pretrained` last.
"""

import re
from collections.abc import Mapping
from typing import Any

from densevit.config.model_schema import BackboneSection, HeadSection, ModelSections
from densevit.config.schema import Config
from densevit.config.sources import ARGUMENT, TYPED, Key, Source
from densevit.config.values import RANDOM
from densevit.errors import ConfigError

_WHOLE: Key = ("weights",)


def settle(config: Config) -> None:
    """Changes the config so that no tensor has two sources, whatever their ranks were.

    A key that loses is set to null, and `pretrained` to false. Where a part takes precedence over `weights`, these
    become the `weights` of the other parts. Whether a head has two sources is known when the weights are read, see
    `load_pretrained`. Raises ConfigError for two keys on the command line.
    """
    _settle_pretrained(config)
    _settle_parts(config)


def use_argument(sections: Config | ModelSections, weights: str) -> None:
    """Sets `weights`, an argument of a Python function, which takes precedence over all weights of a config.

    Raises ConfigError if the sections, other arguments of that function, name weights of the backbone too.
    """
    given, sections.weights = sections.weights, weights
    if isinstance(sections, Config):
        if given is not None:
            sections.set_aside.append(f"Set aside: weights={given}, for weights={weights} (an argument).")
        sections._sources.by_key[_WHOLE] = Source("an argument", ARGUMENT)
        settle(sections)
        return
    for name, is_given in (
        ("weights", sections.backbone.weights is not None),
        ("pretrained", _is_pretrained(sections.backbone.options)),
    ):
        if is_given:
            raise _conflict(sections, _WHOLE, ("backbone", name))


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


def note_replaced(sections: Config | ModelSections, part: Key, what: str) -> None:
    """Notes that `weights` take precedence over a part's. Raises ConfigError if the user typed both. what: how many of
    the part's tensors are replaced."""
    if isinstance(sections, ModelSections) or not _precedes(sections, _WHOLE, part):
        raise _conflict(sections, _WHOLE, part)
    kept = f"for {_shown(sections, _WHOLE)}"
    sections.set_aside.append(f"Set aside: {what} of {_shown(sections, part)}, {kept}.")


def allows_part(patterns: tuple[str, ...], part: str) -> bool:
    """Whether a pattern of `weights_allow` matches some tensors of a part, `backbone.` or `heads.NAME.`"""
    literal = [re.split(r"[*?\[]", pattern)[0] for pattern in patterns]
    return any(text.startswith(part) or part.startswith(text) for text in literal)


def _settle_pretrained(config: Config) -> None:
    """Chooses between `weights` and `pretrained` of the backbone, and of backbones among the method's options."""
    backbone, at = config.backbone, ("backbone",)
    if backbone.weights is not None and _is_pretrained(backbone.options) and not backbone.weights_allow:
        kept = "weights" if _precedes(config, (*at, "weights"), (*at, "pretrained")) else "pretrained"
        _set_aside(config, (*at, "pretrained" if kept == "weights" else "weights"), (*at, kept))
    for name, option in config.method.options.items():
        if not (isinstance(option, Mapping) and option.get("weights") is not None and _is_pretrained(option)):
            continue
        weights, pretrained = ("method", name, "weights"), ("method", name, "pretrained")
        if option.get("weights_allow"):
            continue
        if _precedes(config, weights, pretrained):
            _set_aside(config, pretrained, weights)
        else:
            _set_aside(config, weights, pretrained)


def _settle_parts(config: Config) -> None:
    """Chooses between `weights` and the weights of the parts."""
    if config.weights is None:
        return
    first = set[str]()  # the parts that take precedence
    backbone: Key | None = None
    if config.backbone.weights is not None or _is_pretrained(config.backbone.options):
        backbone = ("backbone", "weights" if config.backbone.weights is not None else "pretrained")
        if not _precedes(config, _WHOLE, backbone):
            first.add("backbone")
        elif not allows_part(config.weights_allow, "backbone."):
            _set_aside(config, backbone, _WHOLE)
    for name, head in config.heads.items():
        key = ("heads", name, "weights")
        if head.weights is not None and config._sources.rank(key) < config._sources.rank(_WHOLE):
            first.add(name)
    if first:
        _distribute(config, first, backbone)


def _distribute(config: Config, first: set[str], backbone: Key | None) -> None:
    """Replaces `weights` by the same weights of each part, except those that take precedence."""
    whole, allow, source = config.weights, config.weights_allow, config._sources.by_key.get(_WHOLE)
    parts: dict[Key, BackboneSection | HeadSection] = {("backbone",): config.backbone}
    parts |= {("heads", name): head for name, head in config.heads.items()}
    loaded = []
    for key, section in parts.items():
        if key[-1] in first:
            continue
        if section.weights is not None:
            _set_aside(config, (*key, "weights"), _WHOLE)
        section.weights, section.weights_allow = whole, _of_part(allow, ".".join(key) + ".")
        if source is not None:
            config._sources.by_key[(*key, "weights")] = source
        loaded.append(".".join((*key, "weights")))
    kept = [backbone if name == "backbone" else ("heads", name, "weights") for name in sorted(first)]
    reason = " and ".join(_shown(config, key) for key in kept if key)
    rest = f" The rest is loaded as {' and '.join(loaded)}." if loaded else ""
    config.set_aside.append(
        f"Set aside in {_shown(config, _WHOLE)}: {' and '.join(sorted(first))}, for {reason}.{rest}"
    )
    config.weights, config.weights_allow = None, ()


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


def _conflict(sections: Config | ModelSections, first: Key, second: Key) -> ConfigError:
    fix = "keep one; heads.NAME.weights loads a head alone" if first == _WHOLE else "keep one"
    both = f"{_shown(sections, first)} and {_shown(sections, second)}"
    return ConfigError(f"{both} name weights of the same tensors. Fix: {fix}.")


def _set_aside(config: Config, key: Key, kept: Key) -> None:
    """Sets a key to null, or `pretrained` to false, and notes it."""
    line = f"Set aside: {_shown(config, key)}, for {_shown(config, kept)}."
    *section, name = key
    value = False if name == "pretrained" else None
    if section[0] == "method":
        setattr(config.method, section[1], {**config.method.options[section[1]], name: value})
    else:
        setattr(config.backbone if section == ["backbone"] else config.heads[section[1]], name, value)
    config.set_aside.append(line)


def _shown(sections: Config | ModelSections, key: Key) -> str:
    """A key with its value and source: backbone.weights=timm:resnet18 (mine.yaml)."""
    value: Any = sections.model_dump()
    for name in key:
        value = value[name]
    source = sections._sources.of(key) if isinstance(sections, Config) else ""
    return f"{'.'.join(key)}={str(value).lower() if value is True else value}" + (f" ({source})" if source else "")
