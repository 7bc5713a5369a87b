"""Images that a json names by a URL or by a path of another machine, as Label Studio does: read by their base name."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from densevit.data.datasets.coco_dataset import Coco
from densevit.errors import DataError
from tests.data.datasets.conftest import opened
from tests.recorded_warnings import recorded_warnings
from tests.written_files import save_image, write_text


def image(path: Path, shade: int = 0) -> Path:
    return save_image(path, np.full((20, 30, 3), shade, np.uint8))


def write(root: Path, *names: str) -> Path:
    """A folder with result.json, with an object in each of these images."""
    images = [{"id": i, "file_name": name} for i, name in enumerate(names)]
    objects = [{"id": i, "image_id": i, "category_id": 1, "bbox": [2, 2, 9, 9]} for i in range(len(names))]
    document = {"images": images, "annotations": objects, "categories": [{"id": 1, "name": "cat"}]}
    return write_text(root / "result.json", json.dumps(document)).parent


def read(root: Path, **options: Any) -> tuple[Coco, list[str]]:
    """The data set of result.json, undivided, and its warnings."""
    named = dict.fromkeys(("train", "val"), "result.json")
    with recorded_warnings() as messages:
        return opened(Coco, "train", root=str(root), annotations=named, **options), messages


@pytest.mark.parametrize(
    ("name", "file"),
    {  # by name in the json: the file in images/
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
    }.items(),
)
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


HOST, LOCAL = "http://host/upload/{}.jpg", "/data/local-files/?d={}/secret.jpg"
OUTSIDE = r"secret\.jpg' is outside of .*images, .*outside_paths"


@pytest.mark.parametrize(
    ("names", "files", "options", "message"),
    [
        (
            [HOST.format("a")],
            ["first/a.jpg", "second/a.jpg"],
            {},
            r"{root}/first/a.jpg and {root}/second/a.jpg may both be .*Fix: .*data\.images",
        ),
        (
            ["s3://bucket/x/a.jpg", "s3://bucket/y/a.jpg"],
            ["images/a.jpg"],
            {},
            r"s3://bucket/x/a.jpg' and 's3://bucket/y/a.jpg' are both a\.jpg in .*images\. Fix: ",
        ),
        ([LOCAL.format("..")], ["secret.jpg", "images/a.jpg"], {"images": "images"}, OUTSIDE),
        ([LOCAL.format("%2E%2E")], ["secret.jpg", "images/a.jpg"], {"images": "images"}, OUTSIDE),
        (
            [HOST.format("a"), HOST.format("b")],
            ["images/a.jpg"],
            {},
            "2 images, of which 1 do not exist:\n  {root}/images/b.jpg\n",
        ),
    ],
    ids=["two files", "two names", "outside", "outside, encoded", "missing"],
)
def test_names_that_do_not_lead_to_one_file_are_errors(names, files, options, message, tmp_path: Path):
    root = write(tmp_path / "set", *names)
    for file in files:
        image(root / file)
    with pytest.raises(DataError, match=message.format(root=root)):
        read(root, **options)


def test_paths_of_local_files_tell_equal_base_names_apart(tmp_path: Path):
    root = write(tmp_path / "set", "/data/local-files/?d=x/a.jpg", "/data/local-files/?d=y/a.jpg")
    files = [image(root / "images" / folder / "a.jpg") for folder in "xy"]
    assert read(root, images="images")[0].image_files() == [*map(str, files)]
