"""densevit/data/datasets/file_checks.py: files are checked before a training, of third parties by `check_file`."""

import pytest
import torch

import densevit
from densevit.config import DataSection
from densevit.data.data_splits import DataSplits
from densevit.errors import UnreadableFileError
from densevit.interfaces import Sample
from tests.counted_dataset import CountedDataset


class Unchecked(CountedDataset):
    """Grey images, none of which is opened before a training. Image 1 is unreadable."""

    provides = ()

    def __init__(self, split: str, length: int = 4) -> None:
        self.classes, self.length = {}, length

    def __getitem__(self, index: int) -> Sample:
        if index == 1:
            raise UnreadableFileError("1.png is damaged.")
        image = torch.full((3, 32, 32), 50 * index, dtype=torch.uint8)
        return {"image": image, "targets": {"image_id": index}}


class Checked(Unchecked):
    """The same, checked."""

    def check_file(self, index: int) -> None:
        self[index]


def data(plugin: type, on_error: str = "raise", **options: int) -> DataSplits:
    return DataSplits(DataSection(name=f"{__name__}:{plugin.__name__}", on_error=on_error, **options), 0, 32)


def test_files_of_a_data_set_with_check_file_are_checked_as_on_error_says():
    with pytest.raises(UnreadableFileError, match="1.png is damaged"):
        len(data(Checked).train)
    with pytest.warns(UserWarning, match=r"1 of 4 images will be left out \(data.on_error: skip\): 1.png is damaged"):
        assert len(data(Checked, "skip").train) == 4
    with pytest.raises(UnreadableFileError, match="1.png is damaged"):
        densevit.create_dataset(f"{__name__}:Checked")
    assert len(data(Unchecked, "skip", length=7).train) == 7
