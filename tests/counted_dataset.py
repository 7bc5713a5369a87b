"""The base of tests' data sets."""

from densevit.interfaces import Dataset


class CountedDataset(Dataset):
    """A data set of `length` images."""

    length = 1

    def __len__(self) -> int:
        return self.length
