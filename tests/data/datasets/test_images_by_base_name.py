"""Images that a json names by a URL or by a path of another machine, as Label Studio does: read by their base name."""

import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from densevit.data.datasets.coco_dataset import Coco
from densevit.errors import DataError
from tests.data.datasets.conftest import opened

ELSEWHERE = {  # by name in the json: the file in images/
    "http://host:8080/data/upload/3/ab12-a.jpg": "ab12-a.jpg",
    "http://host/data/upload/3/0a1b2c3d-a.jpg": "a.jpg",
    "/data/local-files/?d=photos/a.jpg": "a.jpg",
    "/data/local-files/?d=photos%2Fmy%20cat.jpg": "my cat.jpg",
    "../photos/a.jpg": "a.jpg",
    "../../elsewhere/a.jpg": "a.jpg",
    "s3://bucket/x/a.jpg": "a.jpg",
    "https://bucket.org/x/my%20cat.jpg?X-Date=1&Key=a/b": "my cat.jpg",
    "/home/other/photos/a.jpg": "a.jpg",
    "C:\\Users\\other\\a.jpg": "a.jpg",
}


def image(path: Path, shade: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((20, 30, 3), shade, np.uint8)).save(path)
    return path


def write(root: Path, *names: str) -> Path:
    """A folder with result.json, with an object in each of these images."""
    root.mkdir(parents=True, exist_ok=True)
    images = [{"id": i, "file_name": name} for i, name in enumerate(names)]
    objects = [{"id": i, "image_id": i, "category_id": 1, "bbox": [2, 2, 9, 9]} for i in range(len(names))]
    document = {"images": images, "annotations": objects, "categories": [{"id": 1, "name": "cat"}]}
    (root / "result.json").write_text(json.dumps(document))
    return root


def read(root: Path, **options: Any) -> tuple[Coco, list[str]]:
    """The data set of result.json, undivided, and its warnings."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        named = dict.fromkeys(("train", "val"), "result.json")
        dataset = opened(Coco, "train", root=str(root), annotations=named, **options)
    return dataset, [str(warning.message) for warning in caught]


@pytest.mark.parametrize(("name", "file"), ELSEWHERE.items())
@pytest.mark.parametrize("options", [{}, {"images": "images"}])
def test_the_file_of_the_base_name_is_read_with_a_line(name: str, file: str, options: dict[str, Any], tmp_path: Path):
    root = write(tmp_path / "set", name, "plain.jpg")
    image(root / "images" / file, 90)
    image(root / "images" / "plain.jpg")
    dataset, said = read(root, **options)
    assert dataset.path(0) == str(root / "images" / file) and int(dataset[0]["image"].max()) == 90
    expected = (
        "1 of 2 file_names in the json are URLs or lead out of this folder, and are read as its files of the same"
    )
    assert said == [f"{root / 'images'}: {expected} base name, such as {file} for {name!r}."]


def test_a_path_below_the_folder_is_read_as_written(tmp_path: Path):
    root = write(tmp_path / "set", "../images/a.jpg", "sub/b.jpg")
    files = [image(root / "images" / name) for name in ("a.jpg", "sub/b.jpg", "b.jpg")]
    dataset, said = read(root)
    assert [Path(file).resolve() for file in dataset.image_files()] == files[:2] and said == []


def test_a_divided_set_has_the_line_once(tmp_path: Path):
    names = [f"http://host/upload/{number}.jpg" for number in range(10)]
    root = write(tmp_path / "set", *names)
    for number in range(10):
        image(root / "images" / f"{number}.jpg", 20 * number)
    with pytest.warns(UserWarning) as caught:
        parts = [opened(Coco, split, root=str(root)) for split in ("train", "val")]
    assert sorted(Path(path).name for part in parts for path in part.image_files()) == [f"{i}.jpg" for i in range(10)]
    [line] = [str(one.message) for one in caught if "base name" in str(one.message)]
    assert "10 of 10 file_names" in line


def test_base_names_of_two_files_are_an_error(tmp_path: Path):
    root = write(tmp_path / "set", "http://host/upload/a.jpg")
    files = [image(root / folder / "a.jpg") for folder in ("first", "second")]
    with pytest.raises(DataError, match=rf"{files[0]} and {files[1]} may both be .*Fix: .*data\.images"):
        read(root)
    assert read(root, images="second")[0].path(0) == str(files[1])


def test_two_names_of_one_file_are_an_error(tmp_path: Path):
    names = ["s3://bucket/x/a.jpg", "s3://bucket/y/a.jpg"]
    root = write(tmp_path / "set", *names)
    image(root / "images" / "a.jpg")
    with pytest.raises(DataError, match=rf"{names[0]}' and '{names[1]}' are both a\.jpg in .*images\. Fix: "):
        read(root)


def test_paths_of_local_files_tell_equal_base_names_apart(tmp_path: Path):
    root = write(tmp_path / "set", "/data/local-files/?d=x/a.jpg", "/data/local-files/?d=y/a.jpg")
    files = [image(root / "images" / folder / "a.jpg") for folder in "xy"]
    assert read(root, images="images")[0].image_files() == [*map(str, files)]


@pytest.mark.parametrize("name", ["/data/local-files/?d=../secret.jpg", "/data/local-files/?d=%2E%2E/secret.jpg"])
def test_no_name_leads_out_of_the_folder(name: str, tmp_path: Path):
    root = write(tmp_path / "set", name)
    image(root / "secret.jpg")
    image(root / "images" / "a.jpg")
    with pytest.raises(DataError, match=r"secret\.jpg' is outside of .*images, .*outside_paths"):
        read(root, images="images")


def test_a_missing_image_is_named_by_its_place(tmp_path: Path):
    root = write(tmp_path / "set", "http://host/upload/a.jpg", "http://host/upload/b.jpg")
    image(root / "images" / "a.jpg")
    with pytest.raises(DataError, match=rf"2 images, of which 1 do not exist:\n  {root}/images/b\.jpg\n"):
        read(root)
