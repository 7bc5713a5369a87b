"""Mapping from a model's classes to the classes of evaluation data."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from densevit.data.data_splits import DataSplits
from densevit.errors import DataError, listed, nearest, warn_once
from densevit.interfaces import Class, Dataset, Head, Predictions, TargetType, as_classes
from densevit.model import InferenceModel
from densevit.targets.target_class_mapping import plain_name, with_classes

LISTED = 100  # largest number of classes in a message


@dataclass(frozen=True)
class ClassMapping:
    """Maps the classes of a head to the data's classes.

    trained: the head's classes. data_classes: the data's classes. indices: the index in `data_classes` of each class of
    the head; None if the data lacks it.
    """

    trained: tuple[Class, ...]
    data_classes: tuple[Class, ...]
    indices: tuple[int | None, ...]

    @property
    def kept(self) -> list[int]:
        """The indices of the evaluated classes in the data."""
        return sorted({index for index in self.indices if index is not None})

    @property
    def classes(self) -> tuple[Class, ...]:
        """The evaluated classes, in the data's order."""
        return tuple(self.data_classes[index] for index in self.kept)

    @property
    def pairs(self) -> list[tuple[str, str]]:
        """The pairs of mapped class names: the model's and the data's."""
        mapped = zip(self.trained, self.indices, strict=True)
        return [(c.name, self.data_classes[index].name) for c, index in mapped if index is not None]

    @property
    def only_model(self) -> list[str]:
        """The names of the model's classes without a mapping; their predictions count as no class."""
        return [c.name for c, index in zip(self.trained, self.indices, strict=True) if index is None]

    @property
    def only_data(self) -> list[str]:
        """The names of the data's classes without a mapping, which are not evaluated."""
        return [c.name for index, c in enumerate(self.data_classes) if index not in self.indices]

    def applied(self, predictions: Predictions, types: Mapping[str, TargetType]) -> Predictions:
        """Converts predictions of the head to the evaluated classes."""
        evaluated = {index: n for n, index in enumerate(self.kept)}
        table = np.array([-1 if index is None else evaluated[index] for index in self.indices], np.int64)
        return with_classes(predictions, lambda task: (table, self.classes), types)


def labelled_heads(model: InferenceModel, dataset: Dataset, class_names: Mapping[str, str | None]) -> list[str]:
    """The heads for which a data set has labels and, if they have classes, at least one of their classes.

    class_names: a class of the data for classes of the model; None: no class.
    """

    def is_labelled(head: Head) -> bool:
        names = {plain_name(class_names.get(c.name, c.name) or "") for c in head.classes}
        data_classes = head.classes_from(dataset)
        data_names = {plain_name(c.name) for c in data_classes}
        has_labels = not head.required_targets or not {*head.required_targets}.isdisjoint(dataset.provides)
        has_classes = not names or not names.isdisjoint(data_names) or _are_by_position(head.classes, data_classes)
        return has_labels and has_classes

    return [name for name, head in model.heads.items() if is_labelled(head)]


def map_classes(
    model: InferenceModel, data: DataSplits, class_names: Mapping[str, str | None] | None = None
) -> dict[str, ClassMapping]:
    """Maps the classes of all heads to the validation data's, and reduces the data to the mapped classes.

    Maps classes by name, ignoring case, hyphens and underscores; classes without names, of `create_model(classes=2)`,
    by position if the data has as many, with a warning. class_names: overrides by model class name: a data
    class name, or None for no mapping. Heads with the data's classes need no mapping. Raises DataError, with both lists
    of classes, for an unknown name, and if no class is mapped.
    """
    class_names, dataset = dict(class_names or {}), data.val
    mappings: dict[str, ClassMapping] = {}
    kept: dict[str, list[int]] = {}
    used: set[str] = set()
    for name, head in model.heads.items():
        trained, data_classes = tuple(model.classes[name]), tuple(head.classes_from(dataset))
        overrides = {old: new for old, new in class_names.items() if old in {c.name for c in trained}}
        used |= overrides.keys()
        if not trained or ([c.name for c in trained] == [c.name for c in data_classes] and not overrides):
            continue
        if _are_by_position(trained, data_classes) and not overrides:
            mapping = ClassMapping(trained, data_classes, tuple(range(len(trained))))
            warn_once(
                f"heads.{name}: the classes of the model have no names, and are taken as the data's by position: "
                f"{', '.join(f'{old} is {new}' for old, new in mapping.pairs)}. Other pairs: classes={{...}}, --map."
            )
        else:
            mapping = _mapping(name, str(head.task), trained, data_classes, overrides)
        mappings[name] = mapping
        for task in [task for task, classes in dataset.classes.items() if tuple(classes) == data_classes]:
            if kept.setdefault(task, mapping.kept) != mapping.kept:
                raise DataError(
                    f"The heads of the task {task!r} map to different classes of the data. Fix: evaluate one head "
                    "at a time, or use the same mapping for all."
                )
    for old in class_names.keys() - used:
        names = list(dict.fromkeys(c.name for classes in model.classes.values() for c in classes))
        data_names = list(dict.fromkeys(c.name for classes in dataset.classes.values() for c in classes))
        hint, lists = nearest(old, names), _both(names, data_names)
        raise DataError(f"The mapping of {old!r}: the model has no class {old!r}.{hint} {lists}")
    _add_parts(dataset, mappings, kept)
    if kept:
        data.use_classes(kept)
    return mappings


def _are_by_position(trained: Sequence[Class], data_classes: Sequence[Class]) -> bool:
    """Whether the model's classes are only numbered, and the data has as many, which have other names."""
    names, data_names = [c.name for c in trained], [c.name for c in data_classes]
    is_numbered = names == [c.name for c in as_classes(len(names))]
    return is_numbered and len(names) == len(data_names) and {*names} != {*data_names}


def _mapping(
    head: str, task: str, trained: Sequence[Class], data_classes: Sequence[Class], class_names: Mapping[str, str | None]
) -> ClassMapping:
    names, lists = [c.name for c in data_classes], _both([c.name for c in trained], [c.name for c in data_classes])
    plain = [plain_name(name) for name in names]

    def index_of(name: str) -> int | None:
        new = class_names.get(name, name)
        if new is None or new in names:
            return None if new is None else names.index(new)
        if name in class_names:
            hint = nearest(new, names)
            raise DataError(f"The mapping {name!r} to {new!r}: the data has no class {new!r}.{hint} {lists}")
        return plain.index(plain_name(name)) if plain.count(plain_name(name)) == 1 else None

    mapping = ClassMapping(tuple(trained), tuple(data_classes), tuple(index_of(c.name) for c in trained))
    if not mapping.kept:
        raise DataError(
            f"The data's classes for {task} and the classes of head {head!r} have no name in common. {lists} "
            "Fix: map some classes, as in --map person=pedestrian, or classes={'person': 'pedestrian'}."
        )
    return mapping


def _add_parts(dataset: Dataset, mappings: Mapping[str, ClassMapping], kept: dict[str, list[int]]) -> None:
    """Adds tasks whose classes are a subset of a mapped head's, such as the things of panoptic classes."""
    for mapping in mappings.values():
        every, evaluated = {c.name for c in mapping.data_classes}, {c.name for c in mapping.classes}
        for task, classes in dataset.classes.items():
            if task not in kept and classes and {c.name for c in classes} <= every:
                kept[task] = [n for n, c in enumerate(classes) if c.name in evaluated]


def _both(trained: Sequence[str], data_names: Sequence[str]) -> str:
    return (
        f"Classes of the data: {listed(data_names, LISTED) or 'none'}. Classes of the model: "
        f"{listed(trained, LISTED) or 'none'}."
    )
