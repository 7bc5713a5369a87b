"""densevit/data/datasets/list_files.py: lists of images or of pairs."""

from pathlib import Path

import pytest

from densevit.data.datasets.label_maps import LabelMaps
from densevit.errors import DataError
from tests.data.datasets.conftest import LABEL, opened
from tests.data.datasets.test_label_maps import NAMES


@pytest.mark.parametrize("text", ["b\n\nc d\n", "/images/b.jpg /labels/b.png\n/images/c d.jpg\t/labels/c d.png"])
def test_list_files_name_images_or_pairs(text, tmp_path, write_image, label):
    for name in ("a", "b", "c d", "unlabelled"):
        write_image(f"images/{name}.jpg")
    for name in ("a", "b", "c d"):
        label(f"labels/{name}.png", LABEL)
    (tmp_path / "train.txt").write_text(text)
    (tmp_path / "val.txt").touch()  # so that train is not divided
    where = {"images": "images", "labels": "labels", "list_file": "{split}.txt"}
    dataset = opened(LabelMaps, "train", root=str(tmp_path), classes=NAMES, **where)
    assert [Path(dataset.path(i)).name for i in range(len(dataset))] == ["b.jpg", "c d.jpg"]
    assert [Path(dataset.label_path(i)).name for i in range(len(dataset))] == ["b.png", "c d.png"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a\nz\n", r"train\.txt, line 2: .*images/train/z does not exist, .*copy it there"),
        ("images/train/a.jpg labels/train/q.png", r"train\.txt, line 1: .*labels/train/q\.png does not exist"),
        ("\n", r"is empty"),
    ],
)
def test_invalid_list_files_raise(text, message, tmp_path, pairs):
    pairs()
    (tmp_path / "train.txt").write_text(text)
    with pytest.raises(DataError, match=f"(?s){message}"):
        opened(LabelMaps, "train", root=str(tmp_path), classes=NAMES, list_file="train.txt")
