"""Backbones by published names: timm's models, and the backbones of published weights."""

from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from typing import Any

from densevit.config import values_of_file
from densevit.errors import warn_once
from densevit.weights.checkpoint import Checkpoint
from densevit_checkpoints import hub
from densevit_checkpoints.converting import recognised
from densevit_checkpoints.foreign_checkpoint import translate_checkpoint

_INSTEAD = "name the plugin, with backbone.weights=FILE, where FILE is a file or folder downloaded elsewhere"
_TRAINING_KEYS = ("weights", "allow_mismatch", "cache", "lora", "freeze")


def section_of(name: str) -> dict[str, Any] | None:
    """The section `backbone` of a name: timm's model, or what the recognised layout describes. None: no such name.

    timm's weights are not read. Raises WeightsError for other published weights that cannot be read.
    """
    library, colon, model = name.partition(":")
    if not colon and name.partition(".")[0] in timm_models():
        library, model = "timm", name
        warn_once(f"{name!r} is not a plugin's name: backbone={name} means timm's model, timm:{name}.")
    if library == "timm":
        return {"name": "timm", "model": model.strip(), "pretrained": True}
    if not hub.is_published(name):
        return None
    return {**_backbone_of(hub.read(name, _INSTEAD)), "weights": name}


def timm_models() -> Sequence[str]:
    """The names of timm's models; empty if it is not installed."""
    if find_spec("timm") is None:
        return ()
    import timm

    return list(timm.list_models())


def _backbone_of(checkpoint: Checkpoint) -> Mapping[str, Any]:
    if checkpoint.header.get("format") == "densevit":
        section = values_of_file(checkpoint.header.get("config", "{}"), checkpoint.source, part="backbone")["backbone"]
        return {key: value for key, value in section.items() if key not in _TRAINING_KEYS}
    described: Mapping[str, Any] = translate_checkpoint(*recognised(checkpoint)).describe()["backbone"]
    return described
