"""What licences of published weights permit, in a sentence. Not legal advice: the licence itself decides."""

import re

UNKNOWN = "unknown"  # a licence that neither the layout nor the files name

_PERMISSIVE = re.compile(r"(apache|mit|bsd|isc|cc0|cc-by)\b(?!-(nc|sa|nd))")
_NON_COMMERCIAL = re.compile(r"cc-by-nc|non-?commercial|research-only|apple-amlr")
_OWN = {
    "dinov3": "commercial use is allowed; fine-tuned weights that you pass on stay under the same agreement, with a "
    "copy of it"
}


def permits_commercial_use(licence: str | None) -> bool:
    """Whether it is a licence that is known to permit commercial use without an agreement of its own."""
    name = (licence or "").lower()
    return _PERMISSIVE.match(name) is not None and _NON_COMMERCIAL.search(name) is None


def in_words(licence: str | None) -> str:
    """A sentence on what a licence permits; "" for Apache-2.0, MIT, BSD and similar licences.

    licence: the identifier of a model card, of timm or of a layout; None or "unknown": not stated.
    """
    name = (licence or UNKNOWN).lower()
    if permits_commercial_use(name):
        return ""
    if name in (UNKNOWN, "none", ""):
        return "What it permits is not known: ask the authors before you publish or sell what you train from it."
    if _NON_COMMERCIAL.search(name):
        return "Not for commercial use, and neither is what you train from it."
    terms = next((text for key, text in _OWN.items() if key in name), "read it before you publish or sell weights")
    return f"An agreement of its own: {terms}."


def line(source: str, licence: str | None) -> str:
    """The line on the licence of weights: `Licence of timm:x: cc-by-nc-4.0. Not for commercial use, ...`."""
    stated = "not stated" if (licence or UNKNOWN) == UNKNOWN else licence
    return f"Licence{f' of {source}' if source else ''}: {stated}. {in_words(licence)}".rstrip()
