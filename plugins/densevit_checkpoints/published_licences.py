"""The licences of published weights."""

from collections.abc import Mapping
from dataclasses import replace
from fnmatch import fnmatch
from pathlib import PurePath
from typing import Any

from densevit.interfaces import CheckpointLayout, Licences, StateDict
from densevit.interfaces.licences import NOTHING_STATED, UNKNOWN
from densevit_checkpoints.hub import is_published


def licences_of(layout: CheckpointLayout, source: str, tensors: StateDict, metadata: Mapping[str, Any]) -> Licences:
    """The licences of a checkpoint: of the published files that its name matches, or else those of the layout.

    A model card or a package states the licence of weights where that is unknown, and of files of other names.

    tensors, metadata: arguments of the layout's functions; {} for a model that is listed, not read.
    """
    publishing, names = layout.publishing, (source, PurePath(source).name)
    usual = publishing.licences
    usual = usual if isinstance(usual, Licences) else usual(tensors, metadata) if tensors else NOTHING_STATED
    stated = Licences(usual.code, metadata.get("licence", UNKNOWN), source=metadata.get("licence_source", source))
    is_stated = stated.weights != UNKNOWN
    for pattern, licences in publishing.files.items():
        if any(fnmatch(name, pattern) for name in names):
            both = replace(licences, weights=stated.weights, source=f"{licences.source}; {stated.source}")
            return both if is_stated and licences.weights == UNKNOWN else licences
    return stated if is_stated or is_published(source) else usual
