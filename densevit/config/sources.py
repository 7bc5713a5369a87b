"""Where the keys of a config are set: the file or the command line, and the precedence of that place."""

from dataclasses import dataclass, field
from typing import NamedTuple

Key = tuple[str, ...]

ARGUMENT, TYPED, OWN, PRESET, BASE = range(5)  # ranks; the base of a base has BASE + 1, and so on


class Source(NamedTuple):
    """A place that sets keys. name: a file, or the command line. rank: the smaller rank takes precedence.

    ARGUMENT: an argument of a Python function. TYPED: an override `section.key=value`. OWN: the user's config. PRESET:
    a section file that one of these names. BASE and larger: a recipe that densevit ships, the base of a config, and
    their section files.
    """

    name: str
    rank: int


@dataclass
class Sources:
    """The source of each key. Not compared: configs with different sources can be equal.

    set_aside: a line for each key that another key took precedence over, see `initial_weights`.
    """

    by_key: dict[Key, Source] = field(default_factory=dict, compare=False)
    set_aside: list[str] = field(default_factory=list, compare=False)

    def of(self, key: Key) -> str:
        """The name of a key's source, or of the nearest section above it; empty for a config created in Python."""
        while key and key not in self.by_key:
            key = key[:-1]
        return self.by_key[key].name if key in self.by_key else ""

    def rank(self, key: Key) -> int:
        """The rank of a key with a value; TYPED if it was assigned in Python after the config was loaded."""
        if key in self.by_key:
            return self.by_key[key].rank
        return TYPED if len(self.by_key) > 1 else OWN
