"""Sentences on what licences of published weights permit. Not legal advice: read the licence itself."""

import re

UNKNOWN = "unknown"  # a licence that neither the layout nor the files name

_PERMISSIVE = {  # SPDX identifiers, in lower case
    *("apache-2.0", "mit", "mit-0", "0bsd", "bsd-2-clause", "bsd-3-clause", "isc", "zlib", "unlicense", "cc0-1.0"),
    *("cc-by-2.0", "cc-by-2.5", "cc-by-3.0", "cc-by-4.0"),
}
_SOURCE = re.compile(  # where the licence is stated: a repository, an organisation or a package
    r" \((?:[\w.-]+/[\w.-]+(?:: [\w ]+)?|[\w.-]+ on the hugging face hub|(?:[\w.-]+ of )?[\w.-]+ \d[\w.]*)\)$"
)
_NON_COMMERCIAL = re.compile(r"cc-by-nc|non[- ]?commercial|research[- ]only|apple-amlr")

_NO_DERIVATIVES = re.compile(r"cc-by(-nc)?-nd|no[- ]?derivatives")


def forbids_derivatives(licence: str) -> bool:
    """Whether a licence forbids to publish works derived from the weights, such as CC-BY-ND."""
    return _NO_DERIVATIVES.search(licence.lower()) is not None


def permits_commercial_use(licence: str | None) -> bool:
    """Whether `licence` is the SPDX identifier of a permissive licence, alone or with its source as in "MIT
    (isl-org/DPT)". False for any other text."""
    name = (licence or "").lower()
    return _SOURCE.sub("", name) in _PERMISSIVE and _NON_COMMERCIAL.search(name) is None


def in_words(licence: str | None) -> str:
    """A sentence on what a licence permits; "" for Apache-2.0, MIT, BSD-3-Clause and similar licences.

    licence: the identifier of a model card, of timm or of a layout; None or "unknown": not stated.
    """
    name = (licence or UNKNOWN).lower()
    if permits_commercial_use(name):
        return ""
    if name in (UNKNOWN, "none", ""):
        return "Its terms are unknown: ask the authors before you publish or sell what you train from it."
    if _NON_COMMERCIAL.search(name):
        return "Not for commercial use, and neither is what you train from it."
    return "Not known to be permissive: read it before you publish or sell weights."


def line(source: str, licence: str | None) -> str:
    """One line of text on the licence of the weights `source`: `Licence of timm:x: cc-by-nc-4.0. Not for commercial
    use, ...`."""
    stated = "not stated" if (licence or UNKNOWN) == UNKNOWN else licence
    return f"Licence{f' of {source}' if source else ''}: {stated}. {in_words(licence)}".rstrip()
