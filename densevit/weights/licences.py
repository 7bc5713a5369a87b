"""Licences of published weights: which apply to a file, in words, and in a model file's header."""

import re
from collections.abc import Mapping
from dataclasses import replace
from fnmatch import fnmatch
from pathlib import PurePath
from typing import Any

from pydantic import TypeAdapter

from densevit.interfaces import CheckpointLayout, Licences, StateDict
from densevit.interfaces.licences import NON_COMMERCIAL, UNKNOWN
from densevit.weights.hub import is_published

_NO_DERIVATIVES = re.compile(r"cc-by(-nc)?-nd|no[- ]?derivatives")
_HEADER = TypeAdapter(dict[str, Licences])


def licences_of(layout: CheckpointLayout, source: str, tensors: StateDict, metadata: Mapping[str, Any]) -> Licences:
    """The licences of a checkpoint: of the published files that its name matches, or else those of the layout.

    A model card or a package states the licence of weights where that is unknown, and of files of other names.

    tensors, metadata: arguments of the layout's functions.
    """
    publishing, names = layout.publishing, (source, PurePath(source).name)
    usual = publishing.licences
    usual = usual if isinstance(usual, Licences) else usual(tensors, metadata)
    stated = Licences(usual.code, metadata.get("licence", UNKNOWN), source=metadata.get("licence_source", source))
    is_stated = stated.weights != UNKNOWN
    for pattern, licences in publishing.files.items():
        if any(fnmatch(name, pattern) for name in names):
            both = replace(licences, weights=stated.weights, source=f"{licences.source}; {stated.source}")
            return both if is_stated and licences.weights == UNKNOWN else licences
    return stated if is_stated or is_published(source) else usual


def forbids_derivatives(licences: Licences) -> bool:
    """Whether the weights' licence forbids to publish works derived from them, such as CC-BY-ND."""
    return _NO_DERIVATIVES.search(licences.weights.lower()) is not None


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
