"""The findings of `densevit doctor`."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from densevit.errors import DataError, UnreadableFileError

EXAMPLES = 5  # examples of a finding
REPLACE = "Replace or remove them; data.on_error=skip leaves unreadable images out in training."

Severity = Literal["error", "warning", "note"]


@dataclass(frozen=True)
class Finding:
    """One kind of problem of a data set.

    severity: an "error" stops a run or makes its result wrong, a "warning" may do so, a "note" is information. title: a
    plural noun, such as "boxes outside of their image". count: number of occurrences. of: number of checked items, if
    known. examples: the first occurrences, with file or annotation. fix: what to do. split: the split with the problem;
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
    def truncation_note(self) -> str:
        """The text "... (2,805 in all)" if there are more occurrences than examples."""
        return f"... ({self.count:,} in all)" if self.count > len(self.examples) > 1 else ""

    def __str__(self) -> str:
        """Returns severity and heading, then examples and the fix on indented lines."""
        lines = [f"{self.severity}: {self.heading}"]
        lines += [f"    {example}" for example in (*self.examples, self.truncation_note) if example]
        lines += [f"  {self.fix}"] if self.fix else []
        return "\n".join(lines)


@dataclass
class Findings:
    """The findings of one split, or of all splits. files: the split's image files."""

    items: list[Finding] = field(default_factory=list)
    files: list[str] = field(default_factory=list)
    _messages: set[str] = field(default_factory=set)

    def report(
        self,
        severity: Severity,
        title: str,
        examples: Sequence[str],
        fix: str = "",
        count: int | None = None,
        of: int | None = None,
    ) -> None:
        """Adds a finding if there are examples. count: the number of cases; None: the number of examples."""
        if examples:
            count = len(examples) if count is None else count
            self.items.append(Finding(severity, title, count, fix, tuple(examples[:EXAMPLES]), of))

    def report_errors(self, errors: Iterable[DataError], of: int) -> None:
        """Adds a finding for each broken rule; each message counts once. of: number of checked records or files."""
        by_rule: dict[str, list[str]] = {}
        for error in errors:
            if str(error) not in self._messages:
                self._messages.add(str(error))
                default_rule = "unreadable files" if isinstance(error, UnreadableFileError) else "invalid files"
                by_rule.setdefault(error.rule or default_rule, []).append(str(error))
        for rule, messages in by_rule.items():
            fix = "Each message names its fix." if all("Fix: " in message for message in messages) else ""
            if rule == "unreadable files":
                fix = REPLACE
            self.report("error", rule, messages, fix, of=of)


def evenly_spaced(count: int, most: int | None) -> np.ndarray:
    """Returns at most `most` evenly spaced indices of 0 ... count - 1, sorted; None: all."""
    if most is None or count <= most:
        return np.arange(count)
    return np.unique(np.linspace(0, count - 1, most).round().astype(int))
