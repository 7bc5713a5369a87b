"""Mapping from a model's classes to those of the data that it is evaluated on."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from densevit.data.data_builder import Data
from densevit.errors import DataError, listed, nearest
from densevit.interfaces import Class, Dataset, Predictions, TargetType
from densevit.model import DenseModel
from densevit.targets.target_class_mapping import with_classes

LISTED = 100  # largest number of classes in a message


@dataclass(frozen=True)
class ClassMapping:
    """Maps the classes of a head to those of the data.

    trained: the classes of the head. data_classes: the classes of the data. indices: the index in `data_classes` of
    each class of the head, or None if the data does not have it.
    """

    trained: tuple[Class, ...]
    data_classes: tuple[Class, ...]
    indices: tuple[int | None, ...]

    @property
    def kept(self) -> list[int]:
        """The indices of the data's classes that are evaluated."""
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
        """The names of the model's classes that are not mapped; their predictions count as no class."""
        return [c.name for c, index in zip(self.trained, self.indices, strict=True) if index is None]

    @property
    def only_data(self) -> list[str]:
        """The names of the data's classes that are not evaluated."""
        return [c.name for index, c in enumerate(self.data_classes) if index not in self.indices]

    def applied(self, predictions: Predictions, types: Mapping[str, TargetType]) -> Predictions:
        """Converts predictions of the head to the evaluated classes."""
        place = {index: n for n, index in enumerate(self.kept)}
        table = np.array([-1 if index is None else place[index] for index in self.indices], np.int64)
        return with_classes(predictions, lambda task: (table, self.classes), types)


def map_classes(
    model: DenseModel, data: Data, given: Mapping[str, str | None] | None = None
) -> dict[str, ClassMapping]:
    """Maps the classes of all heads to those of the validation data, and reduces the data to the mapped classes.

    Classes are mapped by name, regardless of case, hyphens and underscores. given: names of the model to names of the
    data, or to None for classes that are not mapped; it takes precedence. Heads whose classes are the data's have no
    mapping. Raises DataError, which lists both, for a name that does not exist, and if no class is mapped.
    """
    given, dataset = dict(given or {}), data.val
    mappings: dict[str, ClassMapping] = {}
    kept: dict[str, list[int]] = {}
    used: set[str] = set()
    for name, head in model.heads.items():
        trained, found = tuple(model.classes[name]), tuple(head.classes_from(dataset))
        of_head = {old: new for old, new in given.items() if old in {c.name for c in trained}}
        used |= of_head.keys()
        if not trained or ([c.name for c in trained] == [c.name for c in found] and not of_head):
            continue
        mapping = _mapping(name, str(head.task), trained, found, of_head)
        mappings[name] = mapping
        for task in [task for task, classes in dataset.classes.items() if tuple(classes) == found]:
            if kept.setdefault(task, mapping.kept) != mapping.kept:
                raise DataError(
                    f"The heads of the task {task!r} map to different classes of the data. Fix: evaluate one of them "
                    "at a time, or give all of them the same mapping."
                )
    for old in given.keys() - used:
        names = list(dict.fromkeys(c.name for classes in model.classes.values() for c in classes))
        of_data = list(dict.fromkeys(c.name for classes in dataset.classes.values() for c in classes))
        hint, lists = nearest(old, names), _both(names, of_data)
        raise DataError(f"The mapping of {old!r}: the model has no class {old!r}.{hint} {lists}")
    _add_parts(dataset, mappings, kept)
    if kept:
        data.use_classes(kept)
    return mappings


def _mapping(
    head: str, task: str, trained: Sequence[Class], found: Sequence[Class], given: Mapping[str, str | None]
) -> ClassMapping:
    names, lists = [c.name for c in found], _both([c.name for c in trained], [c.name for c in found])
    plain = [_plain(name) for name in names]

    def index_of(name: str) -> int | None:
        new = given.get(name, name)
        if new is None or new in names:
            return None if new is None else names.index(new)
        if name in given:
            hint = nearest(new, names)
            raise DataError(f"The mapping {name!r} to {new!r}: the data has no class {new!r}.{hint} {lists}")
        return plain.index(_plain(name)) if plain.count(_plain(name)) == 1 else None

    mapping = ClassMapping(tuple(trained), tuple(found), tuple(index_of(c.name) for c in trained))
    if not mapping.kept:
        raise DataError(
            f"The data's classes for {task} and those of the model's head {head!r} have no name in common. {lists} "
            "Fix: map some of them, as in --map person=pedestrian."
        )
    return mapping


def _add_parts(dataset: Dataset, mappings: Mapping[str, ClassMapping], kept: dict[str, list[int]]) -> None:
    """Adds tasks whose classes are a part of a mapped head's, such as the things of panoptic classes."""
    for mapping in mappings.values():
        every, evaluated = {c.name for c in mapping.data_classes}, {c.name for c in mapping.classes}
        for task, classes in dataset.classes.items():
            if task not in kept and classes and {c.name for c in classes} <= every:
                kept[task] = [n for n, c in enumerate(classes) if c.name in evaluated]


def _plain(name: str) -> str:
    return " ".join(name.casefold().replace("_", " ").replace("-", " ").split())


def _both(trained: Sequence[str], found: Sequence[str]) -> str:
    return (
        f"Classes of the data: {listed(found, LISTED) or 'none'}. Classes of the model: "
        f"{listed(trained, LISTED) or 'none'}."
    )
