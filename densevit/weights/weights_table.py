"""The report of a loaded checkpoint: a table, and a line for the terminal."""

import re
from collections import Counter
from collections.abc import Iterable, Iterator

from rich.console import Group
from rich.text import Text

from densevit.errors import counted
from densevit.grouping import grouped
from densevit.terminal import table
from densevit.weights.state_dict_loading import WARNING, StateDictMatch, shown

NAMES_PER_ROW = 3


def weights_table(fit: StateDictMatch) -> Group:
    """The numbers and names of tensors by outcome (loaded, adapted, zeros, left out, initialised, missing, unexpected)
    and reason, a row each. Names that differ only in a block index are merged."""
    rows: list[list[str | Text]] = [[Text(what, "cyan"), str(count), details] for what, count, details in _rows(fit)]
    return Group(
        Text(fit.source, "bold"),
        table(rows, right=(1,), no_wrap=(0, 1)),
        *(Text(note, "yellow" if note.startswith(WARNING) else "") for note in fit.notes),
    )


def weights_line(fit: StateDictMatch) -> str:
    """Numbers of tensors by outcome, and the notes except warnings: "a.pth: 288 tensors loaded, 8 left out." """
    counts = Counter[str]()
    for what, count, _ in _rows(fit):
        counts[what] += count
    loaded = f"{counted(counts.pop('loaded'), 'tensor')} loaded"
    outcomes = ", ".join([loaded, *(f"{count:,} {what}" for what, count in counts.items())])
    notes = (note for note in fit.notes if not note.startswith(WARNING))
    return " ".join([f"{fit.source}: {outcomes}.", *notes])


def _rows(fit: StateDictMatch) -> Iterator[tuple[str, int, str]]:
    yield "loaded", fit.loaded, ""
    changes = grouped((f"{shown(before)} -> {shown(after)}, {how}", name) for name, before, after, how in fit.adapted)
    for change, names in changes.items():
        yield "adapted", len(names), f"{listed(names)}: {change}"
    for what, reasons in (("zeros", fit.zeros), ("left out", fit.ignored_keys), ("initialised", fit.initialised)):
        for reason in dict.fromkeys(reasons.values()):
            names = [name for name, why in reasons.items() if why == reason]
            yield what, len(names), f"{listed(names)}: {reason}"
    for what, names in (("missing", fit.missing), ("unexpected", fit.unexpected)):
        if names:
            yield what, len(names), f"{listed(names)}: allowed"


def listed(names: Iterable[str]) -> str:
    """The first few names as text, in which block indices are replaced by a star and names that are then equal occur
    once."""
    patterns = list(dict.fromkeys(re.sub(r"(?<=\.)\d+(?=\.|$)", "*", name) for name in names))
    return ", ".join(patterns[:NAMES_PER_ROW]) + (", ..." if len(patterns) > NAMES_PER_ROW else "")
