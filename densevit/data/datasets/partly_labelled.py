"""A data set in which only some classes are labelled."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType

import numpy as np

from densevit.data.datasets.mapped_classes import MappedClasses
from densevit.errors import DataError, did_you_mean
from densevit.interfaces import Class, Dataset, Sample, color_of
from densevit.targets.target_class_mapping import plain_name


class PartlyLabelled(MappedClasses):
    """A data set whose samples have `labelled`: the names of its labelled classes, or of those of each image.

    Objects of other classes are removed, and their pixels unlabelled, as are those of a class "background", and images
    of another class. A labelled pixel or image has one class, and so is negative for all others, labelled or not.
    names: the labelled classes. where: the key of these names, for messages. first: classes by task that come first,
    also those that the data lacks. Raises DataError for another name.
    """

    def __init__(
        self,
        dataset: Dataset,
        names: Collection[str],
        where: str,
        first: Mapping[str, Sequence[Class]] = MappingProxyType({}),
    ) -> None:
        super().__init__(dataset, {})
        every = list(dict.fromkeys(c.name for classes in dataset.classes.values() for c in classes))
        for name in names:
            if name not in every:
                raise DataError(f"{where}: the data has no class {name!r}.{did_you_mean(name, every)}")
        joined_names = {*every, *(c.name for classes in first.values() for c in classes)}
        is_complete = {*names} | {name for name in joined_names if plain_name(name) == "background"} >= joined_names
        self.labelled = [name for name in names if is_complete or plain_name(name) != "background"]
        for task, classes in dataset.classes.items():
            every_class = joined_classes(first.get(task, ()), classes)
            index = {c.name: i for i, c in enumerate(every_class)}
            table = [index[c.name] if c.name in self.labelled else -1 for c in classes]
            self._map(task, np.array(table, np.int64), every_class)
        self.provides = {key: self._types.get(key) for key in (*dataset.provides, "labelled")}

    def __getitem__(self, index: int) -> Sample:
        sample = super().__getitem__(index)
        names = {*sample["targets"].get("labelled", self.labelled)}
        return {**sample, "targets": {**sample["targets"], "labelled": [x for x in self.labelled if x in names]}}


def joined_classes(first: Sequence[Class], second: Sequence[Class]) -> tuple[Class, ...]:
    """The classes of both by name; those that only `second` has get file ids and colours that are free."""
    names, last = {c.name for c in first}, max((c.file_id for c in (*first, *second)), default=0)
    taken = {c.file_id for c in first}
    added = [c for c in second if c.name not in names]
    return (
        *first,
        *(
            replace(c, file_id=last + n, color=color_of(len(first) + n)) if c.file_id in taken else c
            for n, c in enumerate(added, 1)
        ),
    )
