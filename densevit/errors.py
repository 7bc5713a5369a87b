"""The errors that densevit raises at people: each says what was found, what was expected, and the mend."""

import difflib
import re
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


def one_line(error: BaseException) -> str:
    """An error's message in one line; its type where it has none, or where asking for the message fails."""
    try:
        text = str(error)
    except Exception:  # an exception of a plugin's, whose __str__ raises
        text = ""
    text = " ".join(text.partition("\nException raised from")[0].split())  # torch adds a stack of C++ there
    return (text if len(text) <= 500 else f"{text[:500]} ...") or type(error).__name__


def printable(text: str) -> str:
    """The text with control characters, except line breaks, escaped: a terminal would obey them."""
    return re.sub(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\ud800-\udfff]", lambda found: ascii(found[0])[1:-1], text)
