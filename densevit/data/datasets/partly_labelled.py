"""A data set in which only some classes are labelled."""

from collections.abc import Collection

import numpy as np

from densevit.data.datasets.mapped_classes import MappedClasses
from densevit.errors import DataError, did_you_mean
from densevit.interfaces import Dataset, Sample
from densevit.targets.target_class_mapping import plain_name


class PartlyLabelled(MappedClasses):
    """A data set whose samples have `labelled`: the names of its labelled classes, or of those of each image.

    Objects of other classes are removed, and their pixels unlabelled, as are those of a class "background", and images
    of another class. A labelled pixel or image has one class, and so is negative for all others, labelled or not.
    names: the labelled classes. where: the key of these names, for messages. Raises DataError for another name.
    """

    def __init__(self, dataset: Dataset, names: Collection[str], where: str) -> None:
        super().__init__(dataset, {})
        every = list(dict.fromkeys(c.name for classes in dataset.classes.values() for c in classes))
        for name in names:
            if name not in every:
                raise DataError(f"{where}: the data has no class {name!r}.{did_you_mean(name, every)}")
        is_complete = {*names} | {name for name in every if plain_name(name) == "background"} >= {*every}
        self.labelled = [name for name in names if is_complete or plain_name(name) != "background"]
        for task, classes in dataset.classes.items():
            table = [i if c.name in self.labelled else -1 for i, c in enumerate(classes)]
            self._mappings[task] = (np.array(table, np.int64), classes)
        self.provides = {key: self._types.get(key) for key in (*dataset.provides, "labelled")}
        for name in dir(dataset):  # optional methods and attributes, such as `check_files`
            is_default = getattr(type(self), name, None) is getattr(Dataset, name, None) and name not in vars(self)
            if is_default and name[0] != "_" and (name in vars(dataset) or callable(getattr(type(dataset), name))):
                setattr(self, name, getattr(dataset, name))

    def __getitem__(self, index: int) -> Sample:
        sample = super().__getitem__(index)
        names = sample["targets"].get("labelled", self.labelled)
        return {**sample, "targets": {**sample["targets"], "labelled": [x for x in self.labelled if x in names]}}
