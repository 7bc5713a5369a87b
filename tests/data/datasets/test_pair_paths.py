"""densevit/data/datasets/pair_paths.py: files of one name in three folders, with different pixels."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from densevit.data.dataset_builder import create_dataset
from densevit.data.datasets.pair_paths import list_files
from densevit.data.io.image_names import drawing_names, image_names
from densevit.errors import DataError
from tests.written_files import save_image, write_text

SHADES = {"a": 10, "b": 90, "c": 170}  # of each folder's image
SIZE = (8, 6)  # width, height


def png(path: Path, value: Any) -> None:
    save_image(path, np.full((SIZE[1], SIZE[0], *np.shape(value)), value, np.uint8))


def label_maps(root: Path) -> dict[str, Any]:
    for index, (name, shade) in enumerate(SHADES.items()):
        for split in ("train", "val"):
            png(root / "images" / split / name / "0.png", [shade] * 3)
            png(root / "labels" / split / name / "0.png", index)
    return {"name": "label_maps", "classes": ["first", "second", "third"]}


def test_images_ids_and_drawings_tell_them_apart(tmp_path):
    dataset = create_dataset(**label_maps(tmp_path), root=str(tmp_path))
    samples = [dataset[index] for index in range(len(dataset))]
    found = [(int(one["image"][0, 0, 0]), int(one["targets"]["semantic"][0, 0])) for one in samples]
    assert sorted(found) == [(10, 0), (90, 1), (170, 2)]
    names = image_names(dataset, {one["targets"]["image_id"]: index for index, one in enumerate(samples)})
    assert len(names) == len(set(names.values())) == len(set(drawing_names(names.values()).values())) == 3


def test_lists_and_patterns_that_fit_several_files_are_errors(tmp_path):
    options = label_maps(tmp_path)
    (tmp_path / "list.txt").write_text("0.png\t0.png\n")
    where = {"images": "images/train", "labels": "labels/train", "list_file": "list.txt"}
    with pytest.raises(DataError, match=r"list\.txt, line 1: 0\.png .*a/0\.png, .*b/0\.png"):
        create_dataset("label_maps", root=str(tmp_path), classes=options["classes"], **where)


def test_files_of_a_folder_are_listed_by_name(tmp_path):
    for name in ("0.png", "b/1.png", "notes.txt"):
        write_text(tmp_path / "maps" / name, "")
    assert list_files(tmp_path, "maps", (".png",), "labels") == {"0": "maps/0.png", "b/1": "maps/b/1.png"}
