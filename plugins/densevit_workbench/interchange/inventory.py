"""Counts of found, used and unused items of a data set."""

from collections.abc import Iterable
from dataclasses import dataclass, field

from densevit.errors import counted

_NAMED = 3  # files per reason in the text


@dataclass
class Inventory:
    """Counts of items of one kind: used, and left out by reason. Found = used + left out, by construction.

    noun: the singular, such as "image", "label file" or "box". skipped: names of items by reason, a phrase such as
    "without a label".
    """

    noun: str
    used: int = 0
    skipped: dict[str, list[str]] = field(default_factory=dict)

    def skip(self, reason: str, names: Iterable[object]) -> None:
        """Adds items that are left out for a reason."""
        texts = [str(name) for name in names]
        if texts:
            self.skipped.setdefault(reason, []).extend(texts)

    @property
    def total(self) -> int:
        """The number of found items."""
        return self.used + sum(map(len, self.skipped.values()))

    def __str__(self) -> str:
        """One line, as in "12 images found: 10 used, 2 left out (2 without a label: a.jpg, b.jpg)"."""
        skipped = "; ".join(
            f"{len(names):,} {reason}: {', '.join(names[:_NAMED])}{', ...' if len(names) > _NAMED else ''}"
            for reason, names in self.skipped.items()
        )
        count = self.total - self.used
        return f"{counted(self.total, self.noun)} found: {self.used:,} used, {count:,} left out" + (
            f" ({skipped})" if skipped else ""
        )
