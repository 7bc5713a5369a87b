"""A data set whose samples are resized."""

from densevit.data.datasets.mapped_classes import MappedClasses
from densevit.data.transforms.sample_resizing import EvaluationTransform
from densevit.interfaces import Dataset, Sample


class Resized(MappedClasses):
    """The samples of a data set as resized for evaluation."""

    def __init__(self, dataset: Dataset, transform: EvaluationTransform) -> None:
        super().__init__(dataset, {})
        self.transform = transform

    def __getitem__(self, index: int) -> Sample:
        return self.transform(self.dataset[index], self._types)
