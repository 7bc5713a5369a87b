"""Licences of published weights. Not legal advice: read the licences themselves."""

import re
from dataclasses import dataclass

UNKNOWN = "unknown"
NON_COMMERCIAL = re.compile(r"cc-by-nc|non[- ]?commercial|research[- ]only|apple-amlr", re.IGNORECASE)
_PERMISSIVE = {  # SPDX identifiers, in lower case
    *("apache-2.0", "mit", "mit-0", "0bsd", "bsd-2-clause", "bsd-3-clause", "isc", "zlib", "unlicense", "cc0-1.0"),
    *("cc-by-2.0", "cc-by-2.5", "cc-by-3.0", "cc-by-4.0"),
}


@dataclass(frozen=True)
class Licences:
    """What the authors of published weights state on their use, in each field a short text or "unknown".

    code, weights: the licence, by its SPDX identifier if it has one. data: the data sets of the training. teacher: the
    model whose outputs the weights learned from; "none" if the authors name none. Restrictions by the data or the
    teacher are in these texts, as "Cityscapes (non-commercial)".
    source: the address where it is stated. date: the day on which that was read, as "2026-11-29".

    Example:
        >>> from densevit.interfaces import Licences
        >>> Licences("MIT", "MIT", "COCO", "none").clean, Licences("MIT", "CC-BY-NC-4.0").clean
        (True, False)
    """

    code: str = UNKNOWN
    weights: str = UNKNOWN
    data: str = UNKNOWN
    teacher: str = UNKNOWN
    source: str = ""
    date: str = ""

    @property
    def clean(self) -> bool | None:
        """Whether code and weights are permissive, and the authors name no restriction by data or teacher; None if a
        field is unknown and no other forbids it."""
        fields = (self.code, self.weights, self.data, self.teacher)
        closed = any(name.lower() not in (*_PERMISSIVE, UNKNOWN) for name in fields[:2])
        if closed or NON_COMMERCIAL.search(" ".join(fields)):
            return False
        return None if UNKNOWN in fields else True

    def __str__(self) -> str:
        read = f", read {self.date}" if self.date else ""
        source = f" ({self.source}{read})" if self.source else ""
        return f"code {self.code}, weights {self.weights}, data {self.data}, teacher {self.teacher}{source}"


NOTHING_STATED = Licences()
