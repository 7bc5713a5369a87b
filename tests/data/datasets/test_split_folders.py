"""densevit/data/datasets/split_folders.py: the folder of a data set and its splits."""

import pytest

from densevit.data.dataset_builder import create_dataset
from densevit.data.datasets.split_folders import root_folder
from densevit.errors import DataError
from tests.data.coco_folder import noise, write_split


def test_a_misspelt_folder_suggests_the_nearest_and_a_file_is_no_missing_folder(tmp_path, cwd):
    (tmp_path / "cells_coco").mkdir()
    (tmp_path / "cell_coco.txt").write_text("a file, which is no suggestion")
    with pytest.raises(DataError, match=r"no folder cell_coco \(working directory .*\)\. Did you mean 'cells_coco'\?$"):
        root_folder("cell_coco")
    with pytest.raises(DataError, match=f"Did you mean '{tmp_path}/cells_coco'"):
        root_folder(f"{tmp_path}/cellscoco")
    with pytest.raises(DataError, match=r"there is no folder flowers \(working directory [^?]*$"):
        root_folder("flowers")
    with pytest.raises(DataError, match=r"there is no folder nowhere/cells_coco \(working directory [^?]*$"):
        root_folder("nowhere/cells_coco")
    (tmp_path / "train.json").write_text("{}")
    with pytest.raises(DataError, match=r"train\.json is a file; the data set's folder is expected"):
        root_folder(str(tmp_path / "train.json"))
    assert root_folder(str(tmp_path / "train.json"), file_allowed=True) == tmp_path / "train.json"


ALL, BOTH, ONE = ("train", "val", "test"), ("train", "val"), ("train",)  # without val, train is divided


@pytest.mark.parametrize(
    ("name", "options", "folders", "splits"),
    [
        *(("image_folder", {}, ("{}/a", "{}/b"), splits) for splits in (ALL, ONE)),
        *(("label_maps", {"classes": ["a", "b"]}, ("images/{}", "labels/{}"), splits) for splits in (ALL, ONE)),
        *(("depth", {"scale": 0.001}, ("images/{}", "labels/{}"), splits) for splits in (ALL, BOTH)),
        *(("images", {}, ("{}",), splits) for splits in (ALL, BOTH)),
        *(("coco", {}, (), splits) for splits in (ALL, ONE)),
    ],
)
def test_a_split_that_does_not_exist_is_an_error_that_names_it(name, options, folders, splits, tmp_path, depth):
    for seed, split in enumerate(splits):
        images = [noise(10 * seed + i, 16, 16) for i in range(10)]
        for folder in folders:
            for i, image in enumerate(images):
                depth(f"{folder.format(split)}/{i}.png", image if "labels" not in folder else image[..., 0] // 128)
        if name == "coco":
            write_split(tmp_path, split, images, [{"image_id": 1, "category_id": 1, "bbox": [1, 1, 5, 5]}])
    assert all(len(create_dataset(name, split, root=str(tmp_path), **options)) for split in {*splits, "val"})
    for split in {"test", "nonsense"} - {*splits}:
        with pytest.raises(DataError, match=rf"\b{split}\b"):
            create_dataset(name, split, root=str(tmp_path), **options)
