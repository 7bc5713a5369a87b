"""Loads the tensors of a head that depend on its classes: the rows of each class, by its name."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from densevit import registry
from densevit.interfaces import Class, Head
from densevit.model import DenseModel
from densevit.model.meta_device import built_on_meta
from densevit.weights.head_protocols import SupportsClassRows
from densevit.weights.state_dict_loading import Adapted

_NAMED = 5  # classes in a note


@dataclass
class ClassRows:
    """What is loaded for other classes, by the head's keys.

    tensors: the head's tensors with the rows of known classes; new classes have their initial rows. excluded: keys that
    keep their initial values, with the reason.
    """

    tensors: dict[str, Tensor] = field(default_factory=dict)
    adapted: list[Adapted] = field(default_factory=list)
    excluded: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def match_classes(model: DenseModel, name: str, state: Mapping[str, Tensor], theirs: Sequence[str] | None) -> ClassRows:
    """Matches the class rows of a head with those of a checkpoint.

    state: the head's state dict in the checkpoint. theirs: the names of its classes; None: not known, and compared by
    number.
    """
    ours = [c.name for c in model.classes[name]]
    if not ours:
        return ClassRows()
    own = model.heads[name].state_dict()
    misshapen = {key for key in own if key in state and state[key].shape != own[key].shape}
    if theirs is None and not misshapen:
        note = f"The names of head {name!r}'s classes are not known; assuming the data's classes, in order."
        return ClassRows(notes=[note])
    if theirs is not None and [*map(_plain, theirs)] == [*map(_plain, ours)]:
        return ClassRows()
    depending = class_tensors(model, name)
    if theirs is None:
        why = f"other classes, {len(ours)} here" if misshapen & depending.keys() else ""
        return ClassRows(excluded=dict.fromkeys(sorted(depending), why) if why else {})
    found = ClassRows()
    pairs = _pairs(ours, theirs)
    source = head_with(model, name, len(theirs)) if pairs else None
    for key, count in sorted(depending.items()):
        rows = None
        if source is not None and key in state and state[key].shape == source.state_dict()[key].shape:
            rows = rows_from(model.heads[name], source, key, state[key], pairs, count)
        if rows is None:
            found.excluded[key] = f"other classes, {len(theirs)} there and {len(ours)} here"
            continue
        found.tensors[key] = rows
        how = f"the rows of {len(pairs)} of {len(ours)} classes, by name"
        found.adapted.append(Adapted(key, tuple(state[key].shape), tuple(rows.shape), how))
    new = [one for index, one in enumerate(ours) if index not in pairs]
    if found.tensors and new:
        listed = ", ".join(new[:_NAMED]) + (f" and {len(new) - _NAMED} more" if new[_NAMED:] else "")
        found.notes = [f"Classes of head {name!r} that these weights lack: {listed}."]
    return found


def class_tensors(model: DenseModel, name: str) -> dict[str, int]:
    """The tensors of a head whose shape depends on the number of classes; see `rows_per_class`."""
    return rows_per_class(model.heads[name], head_with(model, name, len(model.classes[name]) + 1))


def rows_per_class(head: Head, larger: Head) -> dict[str, int]:
    """The rows that one more class adds to each tensor that depends on the number of classes, 0 if it changes another
    dimension than the first. larger: the head with one more class."""
    tensors, found = larger.state_dict(), {}
    for key, value in head.state_dict().items():
        if key in tensors and tensors[key].shape != value.shape:
            is_first = tensors[key].shape[1:] == value.shape[1:]
            found[key] = len(tensors[key]) - len(value) if is_first else 0
    return found


def channel_tensors(model: DenseModel, name: str) -> set[str]:
    """The names of a head's tensors whose shape depends on the channels of its features; with a neck, of the neck's."""
    part = model.necks[name] if name in model.necks else model.heads[name]
    try:
        wider = _wider(model, name).state_dict()
    except Exception:  # a part that takes certain channels only
        return set()
    return {key for key, value in part.state_dict().items() if key in wider and wider[key].shape != value.shape}


def head_with(model: DenseModel, name: str, count: int) -> Head:
    """A head of the model built for another number of classes, without values."""
    feeding = dict(model.necks.items()).get(name, model.backbone)
    first = 1 + max(c.file_id for c in model.classes[name])
    more = [Class(f"class {i}", first + i, (0, 0, 0)) for i in range(count)]
    classes = (*model.classes[name], *more)[:count]
    return _on_meta("heads", model, name, feeding.channels, feeding.strides, classes)


def _wider(model: DenseModel, name: str) -> Any:
    channels = [2 * width for width in model.backbone.channels]
    if name in model.necks:
        return _on_meta("necks", model, name, channels, model.backbone.strides)
    return _on_meta("heads", model, name, channels, model.backbone.strides, model.classes[name])


def _on_meta(group: str, model: DenseModel, name: str, *given: Any) -> Any:
    """A head or neck of the model's sections on the meta device."""
    assert model.sections is not None
    head = model.sections.heads[name]
    built = head if group == "heads" else head.neck
    assert built is not None

    where = f"heads.{name}"
    return built_on_meta(lambda: registry.create(group, built.name, *given, options=built.options, where=where))


def rows_from(
    head: Head, source: Head, key: str, tensor: Tensor, pairs: Mapping[int, int], count: int
) -> Tensor | None:
    """A tensor of the head with the rows of its classes from the source's; None if their rows are not known.

    pairs: the source's class of each known class. count: the number of rows per class. Rows of no class, such as that
    of "no object", are the source's too if it has the same number of them.
    """
    own = head.state_dict()[key]
    here, there = _class_rows(head, key, len(own)), _class_rows(source, key, len(tensor))
    if here is None or there is None or not here.shape[1] == there.shape[1] == count:
        return None
    rows = own.clone()
    for ours, theirs in pairs.items():
        rows[here[ours]] = tensor[there[theirs]].to(rows)
    rest, others = _others(len(own), here), _others(len(tensor), there)
    if len(rest) == len(others):
        rows[rest] = tensor[others].to(rows)
    return rows


def _class_rows(head: Head, key: str, rows: int) -> Tensor | None:
    """The rows of each class (K, R), see `SupportsClassRows`; None if the tensor has fewer rows than classes."""
    given = head.class_rows(key, rows) if isinstance(head, SupportsClassRows) else None
    count = len(head.classes)
    return given if given is not None or rows < count else torch.arange(count)[:, None]


def _others(count: int, rows: Tensor) -> Tensor:
    """The indices 0 ... count - 1 that are not in `rows`."""
    is_other = torch.ones(count, dtype=torch.bool)
    is_other[rows.flatten()] = False
    return is_other.nonzero().flatten()


def _pairs(ours: Sequence[str], theirs: Sequence[str]) -> dict[int, int]:
    """The index in `theirs` of each class of ours with the same name: exactly, or normalised if that is unique."""
    exact = {name: index for index, name in enumerate(theirs) if theirs.count(name) == 1}
    plain = [*map(_plain, theirs)]
    unique = {name: index for index, name in enumerate(plain) if plain.count(name) == 1}
    here = [*map(_plain, ours)]
    found = dict[int, int]()
    for index, name in enumerate(ours):
        same = exact.get(name, unique.get(here[index]) if here.count(here[index]) == 1 else None)
        if same is not None and same not in found.values():
            found[index] = same
    return found


def _plain(name: str) -> str:
    """A normalised class name: `Dining_Table, board` becomes `dining table`."""
    return re.split(r"[,;]", name)[0].replace("_", " ").replace("-", " ").strip().casefold()
