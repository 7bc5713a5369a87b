"""Recognises the layout of a checkpoint, also below a prefix that code around a model adds to all its keys."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from types import MappingProxyType
from typing import Any

from densevit.errors import WeightsError, counted, listed
from densevit.interfaces import CheckpointLayout, StateDict
from densevit.layouts.finding import every
from densevit.layouts.state_dicts import below, leading_parts
from densevit.weights.checkpoint import Checkpoint
from densevit_checkpoints.key_mapping import canonical, named_keys


def recognise(
    tensors: StateDict, source: str = "checkpoint", metadata: Mapping[str, Any] = MappingProxyType({})
) -> CheckpointLayout:
    """The layout whose signature keys, by which it is recognised, are all in a checkpoint; of several such layouts, the
    one with the most signature keys.

    metadata: the metadata that a `CheckpointLayout` reads. Skips layouts that cannot be loaded, with a warning. Raises
    WeightsError if no layout matches, or if two have equally many signature keys.
    """
    keys, best = list(tensors), most_specific(tensors, metadata)
    if len(best) == 1:
        return best[0]
    shown = ", ".join([*keys[:3], *(["..."] if len(keys) > 6 else []), *keys[3:][-3:]])
    summary = f"{source} has {len(keys)} tensors ({shown}), which"
    if best:
        raise WeightsError(
            f"{summary} match {' and '.join(layout.name for layout in best)}. Name the layout with `densevit convert "
            f"{source} OUT --as NAME`."
        )
    raise WeightsError(
        f"{summary} match no known layout. `densevit plugins` lists the readable projects; a plugin can add others."
    )


def most_specific(tensors: StateDict, metadata: Mapping[str, Any] = MappingProxyType({})) -> Sequence[CheckpointLayout]:
    """The layouts with the most signature keys among those whose signature keys are all in a checkpoint."""
    matching = [layout for layout in every() if _is_of(tensors, layout, metadata)]
    most = max((len(layout.signature_keys) for layout in matching), default=0)
    return [layout for layout in matching if len(layout.signature_keys) == most]


def matching_variant(
    layout: CheckpointLayout, tensors: StateDict, metadata: Mapping[str, Any] = MappingProxyType({})
) -> CheckpointLayout:
    """The most specific of a layout and its variants that match a checkpoint; the layout itself if none does."""
    matching = [variant for variant in (layout, *layout.variants) if _is_of(tensors, variant, metadata)]
    return max(matching, key=lambda variant: len(variant.signature_keys), default=layout)


def same_tensors(layout: CheckpointLayout) -> list[str]:
    """The names of the layouts whose signature keys equal those of `layout`, so that a checkpoint's keys do not tell
    which it has."""
    return [
        other.name for other in every() if other.signature_keys == layout.signature_keys and other.name != layout.name
    ]


def nearest(tensors: StateDict) -> tuple[int, str]:
    """The number of keys that the layout which names the most has, and a sentence about it for a message.

    The keys are counted below any prefix of most of them.
    """
    fits = [
        (named_keys(below(tensors, prefix), layout), layout.name, prefix)
        for prefix in ("", *leading_parts(tensors))
        if 2 * len(below(tensors, prefix)) > len(tensors)
        for layout in every()
    ]
    named, name, prefix = max(fits, key=lambda fit: len(fit[0]))
    other = next((f", but not {key}" for key in tensors if key.removeprefix(prefix) not in named), "")
    keys = f"{len(named)} of {len(tensors)} keys{f' below {prefix!r}' if prefix else ''}{other}"
    return len(named), f" {name} fits most: {keys}." if named else ""


def _is_of(tensors: StateDict, layout: CheckpointLayout, metadata: Mapping[str, Any]) -> bool:
    state = canonical(tensors, layout) if layout.signature_keys else None
    with suppress(LookupError):  # of a tensor that `fits` expects
        return state is not None and (layout.fits is None or layout.fits(state, metadata))
    return False


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
