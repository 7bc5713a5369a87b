"""A data set whose samples are resized."""

from densevit.data.transforms.sample_resizing import EvaluationTransform
from densevit.interfaces import Dataset, Sample
from densevit.interfaces.datasets import WrappedDataset
from densevit.targets.types import TargetTypes


class Resized(WrappedDataset):
    """The samples of a data set as resized for evaluation."""

    def __init__(self, dataset: Dataset, transform: EvaluationTransform) -> None:
        super().__init__(dataset)
        self.transform, self._types = transform, TargetTypes.of(dataset)

    def __getitem__(self, index: int) -> Sample:
        return self.transform(self.dataset[index], self._types)
