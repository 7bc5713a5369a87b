"""`densevit doctor` prints the lines of the start of a training about the same data, and no error that it has not."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
import yaml

import densevit
from densevit.data.data_builder import DataSplits
from densevit.errors import DataError, warn_once
from densevit.interfaces import Class
from densevit.targets import Boxes, ObjectLabels
from densevit_workbench.doctor.diagnosis import Diagnosis
from densevit_workbench.doctor.source import find_source
from tests.counted_dataset import CountedDataset
from tests.recorded_warnings import recorded_warnings
from tests.workbench.doctor.test_examination import box, write_coco

WITHOUT_AREA = [9, 9, 9, 30]
RELATIVE = [0.1, 0.2, 0.5, 0.9]
OF_OTHER_FORM = [40, 30, 9, 9]  # x, y, width, height


class Photos(CountedDataset):
    """Six different images of 64 x 48 with these boxes in each."""

    classes: ClassVar = {"detection": (Class("cat", 1, (0, 0, 0)),)}
    provides: ClassVar = {"boxes": Boxes(), "labels": ObjectLabels()}
    length = 6

    def __init__(self, split: str, boxes: list[list[float]]) -> None:
        self.boxes, self.first = boxes, 100 * (split == "val")

    def __getitem__(self, index: int):
        random = torch.Generator().manual_seed(self.first + index)
        image = torch.randint(0, 256, (3, 48, 64), dtype=torch.uint8, generator=random)
        labels = torch.zeros(len(self.boxes), dtype=torch.long)
        return {"image": image, "targets": {"image_id": index, "boxes": torch.tensor(self.boxes), "labels": labels}}


def photos(root: Path, boxes: list[list[float]]) -> Path:
    """A section file of the data set above."""
    section = {"name": f"{__name__}:Photos", "image_size": 64, "batch_size": 2, "boxes": boxes}
    (root / "photos.yaml").write_text(yaml.safe_dump(section))
    return root / "photos.yaml"


def module_class(root: Path) -> Path:
    return photos(root, [[4.0, 4.0, 20.0, 20.0], [float(side) for side in WITHOUT_AREA]])


def coco(root: Path) -> Path:
    for split, first in (("train", 0), ("val", 50)):
        objects = [box(n, n, [4, 4, 20, 20], n % 3 + 1) for n in range(8)]
        write_coco(root, split, [*objects, box(8, 1, [9, 9, 0, 21])], 8, first)
    return root


def label_studio(root: Path) -> Path:
    """A COCO json with the image names of several storages."""
    coco(root)
    forms = ("http://host/data/upload/3/{}", "/data/local-files/?d=photos/{}", "../photos/{}", "s3://bucket/x/{}")
    for split in ("train", "val"):
        document = json.loads((root / f"{split}.json").read_text())
        del document["annotations"][8]
        for number, listed in enumerate(document["images"]):
            listed["file_name"] = forms[number % 4].format(listed["file_name"])
        (root / f"{split}.json").write_text(json.dumps(document))
    return root


LINES: dict[Callable[[Path], Path], str] = {
    module_class: "6 objects of a few images of .*Photos have boxes without area",
    coco: "1 objects of a few images of .*Coco have boxes without area",
    label_studio: "8 of 8 file_names .* base name, such as 0.png for 'http://host/data/upload/3/0.png'",
}


def start(source: Path) -> list[str]:
    """The warnings of the start of a training."""
    warn_once.cache_clear()
    with recorded_warnings() as messages:
        DataSplits(find_source(str(source)).section, 0, 32).check_splits()
    return list(dict.fromkeys(messages))


def reported(diagnosis: Diagnosis, severity: str) -> list[Any]:
    return [text for finding in diagnosis.findings if finding.severity == severity for text in finding.examples]


@pytest.mark.parametrize("make", LINES)
def test_doctor_has_the_lines_of_the_start(make: Callable[[Path], Path], tmp_path: Path):
    source = make(tmp_path)
    lines = [line for line in start(source) if re.search(LINES[make], line)]
    diagnosis = densevit.doctor(source)
    assert lines and diagnosis.errors == []
    assert {*lines} <= {*reported(diagnosis, "warning")}


@pytest.mark.parametrize(("boxes", "text"), [(RELATIVE, "are they relative"), (OF_OTHER_FORM, "are they xywh")])
def test_boxes_with_which_a_training_stops_are_an_error(boxes: list[float], text: str, tmp_path: Path):
    source = photos(tmp_path, [[float(side) for side in boxes]])
    with pytest.raises(DataError, match=text):
        start(source)
    errors = densevit.doctor(source).errors
    assert {finding.split for finding in errors} == {"train", "val"}
    assert all(text in str(finding) for finding in errors)
