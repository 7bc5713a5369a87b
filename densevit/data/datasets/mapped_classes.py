"""A data set with selected or reordered classes, to evaluate a model with other classes."""

from collections.abc import Mapping, Sequence

import numpy as np

from densevit.errors import DataError
from densevit.interfaces import Class, Dataset, Sample
from densevit.interfaces.datasets import WrappedDataset
from densevit.targets.target_class_mapping import with_classes
from densevit.targets.types import TargetTypes


class MappedClasses(WrappedDataset):
    """A data set restricted to some classes. Objects of other classes are removed, and their pixels unlabelled.

    kept: the indices of the kept classes by task, in their new order; other tasks keep all classes.
    """

    def __init__(self, dataset: Dataset, kept: Mapping[str, Sequence[int]]) -> None:
        super().__init__(dataset)
        self.classes = dict(dataset.classes)
        self._mappings: dict[str, tuple[np.ndarray, tuple[Class, ...]]] = {}
        for task, indices in kept.items():
            table = np.full(len(dataset.classes[task]), -1, np.int64)
            table[list(indices)] = np.arange(len(indices))
            self._map(task, table, tuple(dataset.classes[task][n] for n in indices))
        self._types = TargetTypes.of(dataset)

    def _map(self, task: str, table: np.ndarray, classes: tuple[Class, ...]) -> None:
        """Sets the classes of a task. table: (K,), the new index of each class; -1: none."""
        self.classes[task], self._mappings[task] = classes, (table, classes)
        if classes != self.dataset.classes[task]:
            vars(self).pop("image_classes", None)  # of `SupportsImageClasses`: the indices of the earlier classes

    def __getitem__(self, index: int) -> Sample:
        sample = self.dataset[index]
        return {"image": sample["image"], "targets": with_classes(sample["targets"], self._mappings.get, self._types)}


def class_order(
    expected: Mapping[str, Sequence[Class]],
    classes: Mapping[str, Sequence[Class]],
    name: str,
    expected_name: str = "train",
) -> dict[str, list[int]]:
    """Returns the indices that sort a split's classes as in another split, for the tasks whose orders differ.

    expected, classes: classes by task, compared by id and name. expected_name, name: their splits, for messages. Raises
    DataError if the splits have different classes.
    """
    order: dict[str, list[int]] = {}
    for task in sorted(expected.keys() | classes.keys()):
        wanted, actual = ([(c.file_id, c.name) for c in side.get(task, ())] for side in (expected, classes))
        if sorted(wanted) != sorted(actual):
            only = [
                f"only in {split}: {', '.join(f'{title!r} (id {file_id})' for file_id, title in sorted(keys)[:5])}"
                for split, keys in ((expected_name, {*wanted} - {*actual}), (name, {*actual} - {*wanted}))
                if keys
            ]
            raise DataError(
                f"The splits {expected_name} and {name} have different classes for {task}; {'; '.join(only)}. "
                "Give both annotation files the same categories, including those without objects in a split."
            )
        if wanted != actual:
            order[task] = [actual.index(key) for key in wanted]
    return order
