"""Collects all problems of a data set, instead of only the first as its constructor does (`densevit doctor`)."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from densevit.data.datasets.inventory import Inventory
from densevit.errors import DataError, UnreadableFileError

EXAMPLES = 5  # examples of a finding

Severity = Literal["error", "warning", "note"]


@dataclass(frozen=True)
class Finding:
    """One kind of problem of a data set.

    severity: "error" stops a training or makes its result wrong, "warning" may do so, "note" is information. title: the
    kind, as a plural noun: "boxes outside of their image". count: number of occurrences. of: number of checked items,
    if known. examples: the first ones, with the file or annotation. fix: what to do. split: the split with the problem;
    empty for all.
    """

    severity: Severity
    title: str
    count: int
    fix: str = ""
    examples: tuple[str, ...] = ()
    of: int | None = None
    split: str = ""

    @property
    def heading(self) -> str:
        """The finding in one line, as in "train: 3 of 2,805 boxes without area"."""
        of = f" of {self.of:,}" if self.of else ""
        number = f"{self.count:,}{of} " if of or self.count > 1 else ""
        return f"{self.split}{': ' if self.split else ''}{number}{self.title}"

    @property
    def left_out(self) -> str:
        """The text "... (2,805 in all)" if there are more occurrences than examples."""
        return f"... ({self.count:,} in all)" if self.count > len(self.examples) > 1 else ""

    def __str__(self) -> str:
        """Returns severity and heading, then examples and the fix on indented lines."""
        lines = [f"{self.severity}: {self.heading}"]
        lines += [f"    {example}" for example in (*self.examples, self.left_out) if example]
        lines += [f"  {self.fix}"] if self.fix else []
        return "\n".join(lines)


@dataclass(frozen=True)
class Problem:
    """A rule that a data set's files break. Reading code yields it: `Scan.read` raises it or adds it to the findings.

    message: the error for the first occurrence: the file, what was found, what was expected, and the fix. The others
    are those of the `Finding` of all occurrences, which has no title if nothing can be read. Reading goes on after a
    warning, whose message is one line, and after a note, which only an examination shows.
    """

    message: str
    title: str = ""
    examples: Sequence[str] = ()
    fix: str = ""
    count: int | None = None
    of: int | None = None
    severity: Severity = "error"


class Examination:
    """The findings of the data sets that are built with it; see `Scan`.

    most_images: the number of image files to open, evenly spaced; None: all. inventories: what each reader finds, uses
    and leaves out. facts: what each reader of a format passes on, for what is examined in that format only.
    """

    def __init__(self, most_images: int | None) -> None:
        self.most_images = most_images
        self.findings: list[Finding] = []
        self.files: list[str] = []  # of the images
        self.missing: set[str] = set()
        self.inventories: list[Inventory] = []
        self.facts: list[object] = []
        self._failed: dict[int, set[int]] = {}  # by the number of files: which of them have an error
        self._reported: set[str] = set()

    def report(
        self,
        severity: Severity,
        title: str,
        examples: Sequence[str],
        fix: str = "",
        count: int | None = None,
        of: int | None = None,
    ) -> None:
        """Adds a finding, unless there are no examples. count: the number of cases; None: that of the examples."""
        if examples:
            found = len(examples) if count is None else count
            self.findings.append(Finding(severity, title, found, fix, tuple(examples[:EXAMPLES]), of))

    def report_errors(self, errors: "dict[int, DataError]", checked: int, count: int) -> None:
        """Adds the errors of files by index. checked: number of files, of `count`, that were opened."""
        self._failed.setdefault(count, set()).update(errors)
        messages = {}
        for index in sorted(errors):
            text = str(errors[index])
            if text not in self._reported and text.partition(": there is no such")[0] not in self.missing:
                messages[index] = text
        self._reported.update(messages.values())
        unreadable = [text for i, text in messages.items() if isinstance(errors[i], UnreadableFileError)]
        wrong = [text for i, text in messages.items() if not isinstance(errors[i], UnreadableFileError)]
        fix = "Replace or remove them; data.on_error=skip leaves unreadable images out in training."
        self.report("error", "unreadable files", unreadable, fix, of=checked)
        self.report("error", "invalid files", wrong, "Each message names its fix.", of=checked)

    def failed(self, count: int) -> set[int]:
        """Returns the indices of images with errors in a data set of `count` images."""
        return self._failed.get(count, set())

    def chosen(self, count: int) -> np.ndarray:
        """Returns the indices of the files to open, of `count` files."""
        return evenly_spaced(count, self.most_images)


def evenly_spaced(count: int, most: int | None) -> np.ndarray:
    """Returns at most `most` evenly spaced indices of 0 ... count - 1, sorted; None: all."""
    if most is None or count <= most:
        return np.arange(count)
    return np.unique(np.linspace(0, count - 1, most).round().astype(int))


def listed(names: Iterable[object], most: int = EXAMPLES) -> str:
    """Joins the first names to a text such as "a, b, c, ..."."""
    texts = [str(name) for name in names]
    return ", ".join(texts[:most]) + (", ..." if len(texts) > most else "")
