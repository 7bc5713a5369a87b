"""A split that a data set does not have: an error that names it. Plugins test theirs."""

from typing import Any

import pytest

from densevit.data.dataset_builder import create_dataset
from densevit.errors import DataError
from tests.data.coco_folder import noise, write_split

ALL, BOTH, ONE = ("train", "val", "test"), ("train", "val"), ("train",)  # without val, train is divided
CASES: list[tuple[str, dict[str, Any], tuple[str, ...], tuple[str, ...]]] = [
    *(("image_folder", {}, ("{}/a", "{}/b"), splits) for splits in (ALL, ONE)),
    *(("label_maps", {"classes": ["a", "b"]}, ("images/{}", "labels/{}"), splits) for splits in (ALL, ONE)),
    *(("depth", {"scale": 0.001}, ("images/{}", "labels/{}"), splits) for splits in (ALL, BOTH)),
    *(("images", {}, ("{}",), splits) for splits in (ALL, BOTH)),
    *(("coco", {}, (), splits) for splits in (ALL, ONE)),
]


@pytest.mark.parametrize(("name", "options", "folders", "splits"), CASES)
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
