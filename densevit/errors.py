"""The errors that densevit raises at people: each says what was found, what was expected, and the mend."""

import difflib
from collections.abc import Iterable


class DensevitError(ValueError):
    """Something that the user can mend. The command line prints its message alone, without a traceback."""


class ConfigError(DensevitError):
    """A config file, section or override is wrong."""


class PluginError(DensevitError):
    """A plugin is missing, broken, or was given options that its constructor does not take."""


class DataError(DensevitError):
    """An image, an annotation or a data folder is wrong."""


class WeightsError(DensevitError):
    """A checkpoint is missing, unreadable, or does not fit the model."""


class TrainingError(DensevitError):
    """A training cannot go on: another process has ended, the disk is full."""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Two sentences, the nearest known name and all of them: " Did you mean 'x'? Known: x, y."; empty where none is."""
    names = sorted(known)
    nearest = difflib.get_close_matches(name, names, n=1)
    hint = f" Did you mean {nearest[0]!r}?" if nearest else ""
    return f"{hint} Known: {', '.join(names)}." if names else hint
