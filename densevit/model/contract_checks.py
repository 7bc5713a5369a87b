"""Checks that backbone and heads of a model fit together."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from densevit.errors import ConfigError, PluginError, counted
from densevit.interfaces import Backbone, Head, TokenBackbone
from densevit.targets.types import TargetTypes


def check_last_blocks(name: str, head: Head, backbone: Backbone, has_neck: bool) -> None:
    """Raises ConfigError if a head runs more blocks of the backbone than the backbone allows, takes the tokens of a
    backbone that allows none, or has a neck."""
    if head.last_blocks is None:
        return
    blocks = f"runs the backbone's last {counted(head.last_blocks, 'block')} itself"
    where = f"heads.{name} ({type(head).__name__}) {blocks if head.last_blocks else 'takes the tokens of the backbone'}"
    if not isinstance(backbone, TokenBackbone):
        raise ConfigError(
            f"{where}, but backbone {type(backbone).__name__} is no densevit.interfaces.TokenBackbone. Fix: use the "
            "backbone `vit`, or another head."
        )
    if max(head.last_blocks, 1) > backbone.max_last_blocks:
        raise ConfigError(
            f"{where}, but backbone {type(backbone).__name__} lets heads run {backbone.max_last_blocks or 'none'} as "
            f"configured (blocks with windows are excluded). Fix: use global attention in the last blocks, or another "
            "head."
        )
    if has_neck:
        raise ConfigError(f"{where} and takes no feature maps. Fix: remove heads.{name}.neck.")


def check_number_of_classes(name: str, head: Head) -> None:
    """Raises ConfigError for more classes than a target key of the head can represent."""
    types = TargetTypes(head.target_types)
    for key in getattr(head, "required_targets", ()):
        most = types[key].max_classes if key in types and types[key].task else None
        if most is not None and len(head.classes) > most:
            raise ConfigError(
                f"heads.{name}: {len(head.classes)} classes; its target `{key}` can hold at most {most}. Fix: merge or "
                "leave out classes of the data set."
            )


def check_features(backbone: Backbone, features: Any) -> None:
    """Raises PluginError unless features are a list of maps (B, C, h, w) with the backbone's `channels`."""
    if isinstance(features, Sequence):
        shapes = [tuple(x.shape) if isinstance(x, Tensor) else type(x).__name__ for x in features]
        if [shape[1] if len(shape) == 4 else None for shape in shapes] == [*backbone.channels]:
            return
    actual = f"features of shapes {shapes}" if isinstance(features, Sequence) else f"a {type(features).__name__}"
    raise PluginError(
        f"backbone {type(backbone).__name__}: its forward returned {actual}; its channels are "
        f"{[*backbone.channels]}, so a list of {len(backbone.channels)} maps (B, C, h, w) is expected."
    )
