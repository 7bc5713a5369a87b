"""What the start of a training and an evaluation say of an own data set: objects that are dropped, unknown sizes."""

import warnings
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch

from densevit.config import DataSection
from densevit.data.data_splits import DataSplits
from densevit.data.datasets.coco_dataset import Coco
from densevit.data.loading.dataloader import TransformedDataset
from densevit.data.transforms.sample_resizing import build_evaluation_transform
from densevit.errors import DataError
from densevit.interfaces import Class
from densevit.targets import Boxes, CrowdFlags, ObjectLabels
from tests.counted_dataset import CountedDataset
from tests.data.coco_folder import noise, write_split
from tests.recorded_warnings import recorded_warnings

BOXES = [[4, 4, 20, 20], [8, 8, 8, 30], [50, 4, 60, 9], [0, 0, 32, 32]]  # good, without width, outside, a crowd


class Photos(CountedDataset):
    """Two images with these boxes."""

    classes: ClassVar = {"detection": (Class("cat", 1, (0, 0, 0)),)}
    provides: ClassVar = {"boxes": Boxes(), "labels": ObjectLabels(), "iscrowd": CrowdFlags()}
    length = 2

    def __init__(self, split: str = "train", first: Any = BOXES[:1], second: Any = BOXES[:1]) -> None:
        self.boxes = [first, second]

    def __getitem__(self, index: int):
        boxes = torch.tensor(self.boxes[index], dtype=torch.float32)
        crowds = torch.tensor([box == [0, 0, 32, 32] for box in self.boxes[index]])
        targets = {"image_id": f"i{index}", "boxes": boxes, "iscrowd": crowds}
        targets["labels"] = torch.zeros(len(boxes), dtype=torch.long)
        return {"image": torch.zeros(3, 32, 32, dtype=torch.uint8), "targets": targets}


def section(batch_size: int = 2) -> DataSection:
    return DataSection(name=f"{__name__}:Photos", image_size=32, batch_size=batch_size)


def check_values(second: list[list[float]], first: list[list[float]] = BOXES[:1]) -> list[str]:
    with recorded_warnings() as messages:
        TransformedDataset(Photos("train", first, second), build_evaluation_transform(section()), False).check_values()
    return messages


def test_dropped_boxes_are_counted_at_the_start() -> None:
    assert check_values([BOXES[0], BOXES[3]]) == []  # crowds are left out on purpose
    (message,) = check_values(BOXES)
    assert message.startswith("2 objects") and "'i1'" in message and "Fix: " in message


def test_relative_boxes_of_all_images_are_an_error_at_the_start() -> None:
    relative = [[0.1, 0.2, 0.5, 0.9]]
    check_values(relative)  # of one of two images
    with pytest.raises(DataError, match=r"Photos: boxes of a few images all lie within 0 \.\.\. 1 in an image of 32 x"):
        check_values(relative, relative)


def test_a_data_set_without_sizes_is_evaluated_one_image_at_a_time_with_a_line() -> None:
    splits = DataSplits(section(2), 0, 32)
    with pytest.warns(UserWarning, match=r"Photos has no sizes\(\): images are evaluated one at a time\. Fix: "):
        assert len(splits.val_loader()) == 2
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        DataSplits(section(1), 0, 32).val_loader()


def test_a_negative_width_of_a_published_file_stays_a_degenerate_box(tmp_path: Path) -> None:
    for split in ("train", "val"):
        write_split(tmp_path, split, [noise(0, 32, 32)], [{"image_id": 0, "category_id": 1, "bbox": [20, 8, -5, 10]}])
    assert Coco("val", str(tmp_path))[0]["targets"]["boxes"].tolist() == [[20, 8, 20, 18]]
