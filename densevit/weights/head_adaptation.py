"""Adapts the tensors of a checkpoint's head to a model's head."""

from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

from torch import Tensor

from densevit.errors import WeightsError
from densevit.model import DenseModel
from densevit.weights.class_rows import ClassRows, match_classes, wider_tensors
from densevit.weights.translated_checkpoint import TranslatedCheckpoint


@runtime_checkable
class SupportsReplacedTensors(Protocol):
    """A head with tensors whose meaning depends on its options."""

    def replaced_tensors(self, options: Mapping[str, Any]) -> tuple[dict[str, Tensor], str]:
        """Returns tensors by key that replace those of a checkpoint trained with different options of this head, and
        the reason.

        options: the options that the weights were trained with, without defaults. Called on a new head, before the
        weights are loaded. Returns ({}, "") to load all tensors with matching shapes.
        """


def adapted_head(
    model: DenseModel, name: str, checkpoint: TranslatedCheckpoint, state: Mapping[str, Tensor]
) -> ClassRows:
    """Adapts the tensors of a checkpoint's head to the model's head `name`: selects class rows, replaces tensors whose
    meaning depends on options, and excludes tensors that a checkpoint's head for a different task lacks. state: the
    state dict of the checkpoint's head."""
    adapted = match_classes(model, name, state, checkpoint.classes.get(checkpoint.head_names.get(name, name)))
    adapted.excluded |= checkpoint.absent.get(name, {})
    replaced, why = replaced_tensors(model, name, checkpoint)
    adapted.tensors |= replaced
    adapted.notes += [f"heads.{name}: {why}."] if replaced else []
    return adapted


def replaced_tensors(model: DenseModel, name: str, checkpoint: TranslatedCheckpoint) -> tuple[dict[str, Tensor], str]:
    """`SupportsReplacedTensors.replaced_tensors` of the model's head `name`; ({}, "") if the head has no such
    method."""
    head = model.heads[name]
    if not isinstance(head, SupportsReplacedTensors):
        return {}, ""
    try:
        options = checkpoint.describe().get("heads", {}).get(checkpoint.head_names.get(name, name))
    except WeightsError:  # an incomplete checkpoint, which `allow_mismatch` permits
        return {}, ""
    return head.replaced_tensors(options) if isinstance(options, Mapping) else ({}, "")


def channel_mismatches(model: DenseModel, name: str, state: Mapping[str, Tensor]) -> dict[str, str]:
    """The keys in `state` of tensors of a head's neck, or of the head if it has no neck, that do not fit the backbone's
    channels; with the reason."""
    tensors = (model.necks[name] if name in model.necks else model.heads[name]).state_dict()
    misshapen = {key for key in tensors if key in state and state[key].shape != tensors[key].shape}
    wider = wider_tensors(model, name) if misshapen else {}
    names = (
        key
        for key in sorted(misshapen & wider.keys())
        if any(a != b != c for a, b, c in zip(state[key].shape, tensors[key].shape, wider[key].shape, strict=False))
    )
    return dict.fromkeys(names, "the features of this backbone have other channels")
