"""The sources of config keys, and the typed keys of initial weights."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

Key = tuple[str, ...]
Overrides = Sequence[str] | Mapping[str, Any]
"""Texts `section.key=value`, or values by key. `fit` has pairs of a key and a value among the texts."""

WEIGHTS: Key = ("weights",)
BACKBONE: Key = ("backbone", "name")
BACKBONE_WEIGHTS: Key = ("backbone", "weights")
PRETRAINED: Key = ("backbone", "pretrained")


@dataclass(frozen=True)
class Sources:
    """The source of each key. Not compared: configs with different sources can be equal.

    by_key: the name of a file, "command line" or "overrides". typed: the keys of initial weights, and the backbone's
    name, set in overrides or Python arguments, or else in the user's file; keys of a shipped recipe, a `base` and a
    section file are not typed. notes: a line for each overridden key of initial weights, see `initial_weights`.
    """

    by_key: Mapping[Key, str] = field(default_factory=dict, compare=False)
    typed: Collection[Key] = field(default=(), compare=False)
    notes: tuple[str, ...] = field(default=(), compare=False)

    def of(self, key: Key) -> str:
        """The name of a key's source, or of the nearest section above it; empty for a config created in Python."""
        while key and key not in self.by_key:
            key = key[:-1]
        return self.by_key.get(key, "")


def names_weights(key: Key) -> bool:
    """Whether a key chooses initial weights: a source of weights, or another backbone."""
    is_head = key[0] == "heads" and key[2:] == ("weights",)
    return is_head or key in (WEIGHTS, BACKBONE, BACKBONE_WEIGHTS, PRETRAINED)
