"""Loads the tensors of a head that depend on its classes: rows are matched by class name."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from densevit import registry
from densevit.errors import listed
from densevit.interfaces import Class, Head
from densevit.model import DenseModel
from densevit.model.meta_device import built_on_meta
from densevit.weights.state_dict_loading import Adapted


@runtime_checkable
class SupportsClassRows(Protocol):
    """A head with class-dependent tensors that are not simply one row per class, followed by other rows."""

    def class_rows(self, name: str, rows: int) -> Tensor | None:
        """The rows (K, R) of each class in a tensor whose first dimension depends on the number of classes. Used to
        load rows from a head with other classes.

        name: the tensor's key in this head's state dict. rows: its first dimension. (K, 0): unknown; the tensor keeps
        its initial values if the classes differ. None: one row per class, in order, before all other rows.
        """


@dataclass
class ClassRows:
    """Tensors to load into a head with other classes, by the head's keys.

    tensors: the checkpoint's rows of classes that it has, and initial rows of all other classes. adapted: the changed
    tensors, for the report. excluded: keys that keep their initial values, with the reason. notes: sentences for the
    report.
    """

    tensors: dict[str, Tensor] = field(default_factory=dict)
    adapted: list[Adapted] = field(default_factory=list)
    excluded: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def match_classes(
    model: DenseModel, name: str, state: Mapping[str, Tensor], saved_classes: Sequence[str] | None
) -> ClassRows:
    """Matches the class rows of the model's head `name` with those of a checkpoint's head.

    state: the state dict of the checkpoint's head. saved_classes: its class names; None: unknown, and classes are
    matched by index.
    """
    names = [c.name for c in model.classes[name]]
    if not names:
        return ClassRows()
    tensors = model.heads[name].state_dict()
    misshapen = {key for key in tensors if key in state and state[key].shape != tensors[key].shape}
    if saved_classes is not None and [*map(_plain, saved_classes)] == [*map(_plain, names)]:
        return ClassRows()
    is_open = misshapen or saved_classes is not None
    depending = rows_per_class(model.heads[name], head_with(model, name, len(names) + 1)) if is_open else {}
    if saved_classes is None and not misshapen & depending.keys():
        note = f"The class names of head {name!r} are unknown; assuming the data's classes, in order."
        return ClassRows(notes=[note])
    if saved_classes is None:
        return ClassRows(excluded=dict.fromkeys(sorted(depending), f"other classes, {len(names)} here"))
    result = ClassRows()
    pairs = _pairs(names, saved_classes)
    source = head_with(model, name, len(saved_classes)) if pairs else None
    for key, count in sorted(depending.items()):
        rows = None
        if source is not None and key in state and state[key].shape == source.state_dict()[key].shape:
            rows = rows_from(model.heads[name], source, key, state[key], pairs, count)
        if rows is None:
            result.excluded[key] = f"other classes, {len(saved_classes)} there and {len(names)} here"
            continue
        result.tensors[key] = rows
        how = f"the rows of {len(pairs)} of {len(names)} classes, by name"
        result.adapted.append(Adapted(key, tuple(state[key].shape), tuple(rows.shape), how))
    new = [class_name for index, class_name in enumerate(names) if index not in pairs]
    if result.tensors and new:
        result.notes = [f"Classes of head {name!r} that these weights lack: {listed(new)}."]
    return result


def rows_per_class(head: Head, larger: Head) -> dict[str, int]:
    """The tensors whose shape depends on the number of classes, each with its rows per class; 0 rows if a dimension
    other than the first depends on it. larger: the head built with one more class."""
    larger_tensors, rows = larger.state_dict(), {}
    for key, value in head.state_dict().items():
        if key in larger_tensors and larger_tensors[key].shape != value.shape:
            is_first = larger_tensors[key].shape[1:] == value.shape[1:]
            rows[key] = len(larger_tensors[key]) - len(value) if is_first else 0
    return rows


def wider_tensors(model: DenseModel, name: str) -> dict[str, Tensor]:
    """The tensors of the neck of head `name`, or of the head itself if it has no neck, for twice the backbone's
    channels, on the meta device."""
    channels, strides = [2 * width for width in model.backbone.channels], model.backbone.strides
    group, classes = ("necks", ()) if name in model.necks else ("heads", (model.classes[name],))
    try:
        state_dict: dict[str, Tensor] = _on_meta(group, model, name, channels, strides, *classes).state_dict()
    except Exception:  # the part accepts only certain channels
        return {}
    return state_dict


def head_with(model: DenseModel, name: str, count: int) -> Head:
    """The model's head `name`, built on the meta device for `count` classes."""
    feeding = dict(model.necks.items()).get(name, model.backbone)
    first = 1 + max(c.file_id for c in model.classes[name])
    more = [Class(f"class {i}", first + i, (0, 0, 0)) for i in range(count)]
    classes = (*model.classes[name], *more)[:count]
    return _on_meta("heads", model, name, feeding.channels, feeding.strides, classes)


def _on_meta(group: str, model: DenseModel, name: str, *arguments: Any) -> Any:
    """The head `name`, or its neck, built on the meta device from the model's sections. group: `heads` or `necks`.
    arguments: the constructor's positional arguments."""
    head = model.sections.heads[name]
    built = head if group == "heads" else head.neck
    assert built is not None

    where = f"heads.{name}"
    return built_on_meta(lambda: registry.create(group, built.name, *arguments, options=built.options, where=where))


def rows_from(
    head: Head, source: Head, key: str, tensor: Tensor, pairs: Mapping[int, int], count: int
) -> Tensor | None:
    """The head's tensor `key`, with the rows of matching classes copied from `tensor`; None if it is unknown which rows
    belong to a class.

    source: a head of the checkpoint's classes, in which `tensor` has the same key. pairs: the class index in `source`
    by the class index in `head`. count: rows per class. Rows that belong to no class, such as "no object", are copied
    too if both heads have the same number of them.
    """
    initial = head.state_dict()[key]
    here, there = _class_rows(head, key, len(initial)), _class_rows(source, key, len(tensor))
    if here is None or there is None or not here.shape[1] == there.shape[1] == count:
        return None
    rows = initial.clone()
    for index, source_index in pairs.items():
        rows[here[index]] = tensor[there[source_index]].to(rows)
    rest, source_rest = _classless_rows(len(initial), here), _classless_rows(len(tensor), there)
    if len(rest) == len(source_rest):
        rows[rest] = tensor[source_rest].to(rows)
    return rows


def _class_rows(head: Head, key: str, rows: int) -> Tensor | None:
    """The rows of each class (K, R) (`SupportsClassRows`); None if the tensor has fewer rows than classes."""
    class_rows = head.class_rows(key, rows) if isinstance(head, SupportsClassRows) else None
    count = len(head.classes)
    return class_rows if class_rows is not None or rows < count else torch.arange(count)[:, None]


def _classless_rows(count: int, rows: Tensor) -> Tensor:
    """The indices 0 ... count - 1 that are not in `rows`."""
    is_other = torch.ones(count, dtype=torch.bool)
    is_other[rows.flatten()] = False
    return is_other.nonzero().flatten()


def _pairs(names: Sequence[str], saved_classes: Sequence[str]) -> dict[int, int]:
    """The index in `saved_classes` by the index in `names`, of classes with the same name. Names that differ only in
    spelling (`_plain`) match if they are unique in both lists."""
    exact = {name: index for index, name in enumerate(saved_classes) if saved_classes.count(name) == 1}
    plain = [*map(_plain, saved_classes)]
    unique = {name: index for index, name in enumerate(plain) if plain.count(name) == 1}
    here = [*map(_plain, names)]
    pairs = dict[int, int]()
    for index, name in enumerate(names):
        same = exact.get(name, unique.get(here[index]) if here.count(here[index]) == 1 else None)
        if same is not None and same not in pairs.values():
            pairs[index] = same
    return pairs


def _plain(name: str) -> str:
    """A normalised class name: `Dining_Table, board` becomes `dining table`."""
    return re.split(r"[,;]", name)[0].replace("_", " ").replace("-", " ").strip().casefold()
