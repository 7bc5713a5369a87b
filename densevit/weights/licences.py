"""Licences of published weights: in words, and in a model file's header."""

from collections.abc import Mapping

from pydantic import TypeAdapter

from densevit.interfaces import Licences
from densevit.interfaces.licences import NON_COMMERCIAL

_HEADER = TypeAdapter(dict[str, Licences])


def line(source: str, licences: Licences) -> str:
    """One line of text on the licences of the weights `source`, with a warning unless they are clean."""
    words = "Not known to be permissive: read them before you publish or sell weights."
    if licences.clean:
        words = ""
    elif NON_COMMERCIAL.search(str(licences)):
        words = "Not for commercial use, and neither is what you train from it."
    elif licences.clean is None:
        words = "Ask the authors for what is unknown before you publish or sell what you train from it."
    return f"Licences{f' of {source}' if source else ''}: {licences}. {words}".rstrip()


def from_header(entries: Mapping[str, str]) -> dict[str, Licences]:
    """The licences in a model file's header, by the source of the weights. Raises ValueError if the entry `licences` is
    not a JSON object of `Licences`."""
    return _HEADER.validate_json(entries.get("licences", "{}"))
