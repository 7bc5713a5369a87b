"""The mapping from a model's classes to those of the data that it is evaluated on."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from densevit.data.build import Data
from densevit.errors import DataError, did_you_mean
from densevit.interfaces import Class, Dataset, Predictions, TargetType
from densevit.model import DenseModel
from densevit.targets.class_mapping import with_classes

LISTED = 100  # classes in an error


@dataclass(frozen=True)
class ClassMapping:
    """From the classes of a head to those of the data.

    trained: the classes of the head. found: those of the data. indices: for each of the head's, the index in `found`;
    None: not in the data.
    """

    trained: tuple[Class, ...]
    found: tuple[Class, ...]
    indices: tuple[int | None, ...]

    @property
    def kept(self) -> list[int]:
        """The indices of the data's classes that are evaluated."""
        return sorted({index for index in self.indices if index is not None})

    @property
    def classes(self) -> tuple[Class, ...]:
        """The evaluated classes, in the data's order."""
        return tuple(self.found[index] for index in self.kept)

    @property
    def pairs(self) -> list[tuple[str, str]]:
        """The names of mapped classes, of the model and of the data."""
        mapped = zip(self.trained, self.indices, strict=True)
        return [(c.name, self.found[index].name) for c, index in mapped if index is not None]

    @property
    def only_model(self) -> list[str]:
        """The model's classes that are not mapped; their predictions count as no class."""
        return [c.name for c, index in zip(self.trained, self.indices, strict=True) if index is None]

    @property
    def only_data(self) -> list[str]:
        """The data's classes that are not evaluated."""
        return [c.name for index, c in enumerate(self.found) if index not in self.indices]

    def applied(self, predictions: Predictions, types: Mapping[str, TargetType]) -> Predictions:
        """Predictions of the head with the evaluated classes."""
        place = {index: n for n, index in enumerate(self.kept)}
        table = np.array([-1 if index is None else place[index] for index in self.indices], np.int64)
        return with_classes(predictions, lambda task: (table, self.classes), types)


def map_classes(
    model: DenseModel, data: Data, given: Mapping[str, str | None] | None = None
) -> dict[str, ClassMapping]:
    """Maps the classes of all heads to those of the validation data, which is replaced by `MappedClasses`.

    Classes are mapped by name, regardless of case, hyphens and underscores. given: names of the model to names of the
    data, or to None for classes that are not mapped; it takes precedence. Heads whose classes are the data's have no
    mapping. Raises DataError, with both lists, for a name that does not exist, and if no class is mapped.
    """
    given, dataset = dict(given or {}), data.val
    mappings: dict[str, ClassMapping] = {}
    kept: dict[str, list[int]] = {}
    used: set[str] = set()
    for name, head in model.heads.items():
        trained, found = tuple(model.classes[name]), tuple(head.classes_from(dataset))
        own = {old: new for old, new in given.items() if old in {c.name for c in trained}}
        used |= own.keys()
        if not trained or ([c.name for c in trained] == [c.name for c in found] and not own):
            continue
        mapping = _mapping(name, str(head.task), trained, found, own)
        mappings[name] = mapping
        for task in [one for one, classes in dataset.classes.items() if tuple(classes) == found]:
            if kept.setdefault(task, mapping.kept) != mapping.kept:
                raise DataError(
                    f"The heads of the task {task!r} map to different classes of the data. Evaluate one of them at a "
                    "time, or give all of them the same mapping."
                )
    for old in given.keys() - used:
        names = list(dict.fromkeys(c.name for classes in model.classes.values() for c in classes))
        hint, lists = _hint(old, names), _both(names, _all(dataset))
        raise DataError(f"The mapping of {old!r}: the model has no class {old!r}.{hint} {lists}")
    _add_parts(dataset, mappings, kept)
    if kept:
        data.use_classes(kept)
    return mappings


def _mapping(
    head: str, task: str, trained: Sequence[Class], found: Sequence[Class], given: Mapping[str, str | None]
) -> ClassMapping:
    names, lists = [c.name for c in found], _both([c.name for c in trained], [c.name for c in found])
    plain: dict[str, list[int]] = {}
    for index, name in enumerate(names):
        plain.setdefault(_plain(name), []).append(index)

    def index_of(name: str) -> int | None:
        if name in given:
            new = given[name]
            if new is not None and new not in names:
                raise DataError(
                    f"The mapping {name!r} to {new!r}: the data has no class {new!r}.{_hint(new, names)} {lists}"
                )
            return None if new is None else names.index(new)
        if name in names:
            return names.index(name)
        same = plain.get(_plain(name), [])
        return same[0] if len(same) == 1 else None

    mapping = ClassMapping(tuple(trained), tuple(found), tuple(index_of(c.name) for c in trained))
    if not mapping.kept:
        raise DataError(
            f"The data's classes for {task} and those of the model's head {head!r} have no name in common. {lists} "
            "Fix: map some, as in --map person=pedestrian."
        )
    return mapping


def _add_parts(dataset: Dataset, mappings: Mapping[str, ClassMapping], kept: dict[str, list[int]]) -> None:
    """Adds tasks whose classes are a part of a mapped head's, such as the things of panoptic classes."""
    for mapping in mappings.values():
        every, evaluated = {c.name for c in mapping.found}, {c.name for c in mapping.classes}
        for task, classes in dataset.classes.items():
            if task not in kept and classes and {c.name for c in classes} <= every:
                kept[task] = [n for n, c in enumerate(classes) if c.name in evaluated]


def _plain(name: str) -> str:
    return " ".join(name.casefold().replace("_", " ").replace("-", " ").split())


def _all(dataset: Dataset) -> list[str]:
    return list(dict.fromkeys(c.name for classes in dataset.classes.values() for c in classes))


def _hint(name: str, names: Sequence[str]) -> str:
    """The nearest name, if any; all are listed beside it."""
    return did_you_mean(name, names).partition(" Known:")[0]


def _both(trained: Sequence[str], found: Sequence[str]) -> str:
    return f"Classes of the data: {_listed(found)}. Classes of the model: {_listed(trained)}."


def _listed(names: Sequence[str]) -> str:
    more = f" ... ({len(names)})" if len(names) > LISTED else ""
    return ", ".join(names[:LISTED]) + more if names else "none"
