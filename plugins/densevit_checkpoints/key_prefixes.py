"""Removes prefixes that code around a model adds to all its keys, such as `model.backbone.`."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from densevit.errors import WeightsError, counted, listed
from densevit.interfaces import StateDict
from densevit.layouts.state_dicts import below, leading_parts
from densevit.weights.checkpoint import Checkpoint
from densevit_checkpoints.recognition import nearest


def without_prefix(checkpoint: Checkpoint, prefix: str) -> Checkpoint:
    """The checkpoint with the tensors below a prefix, and a note that names it and the tensors that are left out."""
    outside = [key for key in checkpoint.tensors if not key.startswith(prefix)]
    rest = f", without {counted(len(outside), 'other tensor')} ({listed(outside, 3)})" if outside else ""
    return replace(
        checkpoint,
        tensors=below(checkpoint.tensors, prefix),
        containers={name: below(tensors, prefix) for name, tensors in checkpoint.containers.items()},
        notes=(*checkpoint.notes, f"Tensors below the prefix {prefix!r} are read{rest}."),
    )


def fitting(checkpoint: Checkpoint, fits: Callable[[StateDict], Any], error: WeightsError) -> Checkpoint:
    """The checkpoint without the shortest prefix below which its tensors fit.

    A prefix has at least as many keys as any layout names: the backbone of an incomplete model is not read alone.
    error: the reason why the tensors do not fit with their prefixes. Raises WeightsError with this reason if no prefix
    fits; with the prefixes if several fit, such as `student.` and `teacher.`.
    """
    count, sentence = nearest(checkpoint.tensors)
    prefixes = [
        prefix
        for prefix in leading_parts(checkpoint.tensors)
        if len(part := below(checkpoint.tensors, prefix)) >= count and fits(part)
    ]
    outer = [prefix for prefix in prefixes if sum(map(prefix.startswith, prefixes)) == 1]  # only with itself
    if len(outer) == 1:
        return without_prefix(checkpoint, outer[0])
    models = (
        f"{checkpoint.source}: models below the prefixes {' and '.join(map(repr, outer))}. Fix: choose one, as in "
        f"`densevit convert {checkpoint.source} OUT --prefix {''.join(outer[:1])}`."
    )
    raise WeightsError(models if outer else f"{error}{sentence}") from error
