"""What readers of image folders leave out: counted by reason in one line, and nothing for a correct data set."""

import json
import shutil
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from densevit.config import DataSection
from densevit.data.dataset_builder import build_split, create_dataset
from densevit.errors import DataError
from densevit.interfaces import Dataset
from tests.data.coco_folder import noise

CLASSES, FOLDER = {"classes": ["x", "y"]}, "images/train"


@pytest.fixture
def root(tmp_path):
    """Label maps. JPEGs may be called .jfif and .jpe, also in capitals."""
    labels = Image.fromarray(np.tile(np.array([0, 1], np.uint8), (6, 4)))
    for split in ("train", "val"):
        for folder in ("images", "labels"):
            (tmp_path / folder / split).mkdir(parents=True)
        for index, name in enumerate(("a.jpg", "b.JFIF", "c.jpe")):
            Image.fromarray(noise(index, 6, 8)).save(tmp_path / "images" / split / name, format="JPEG")
            labels.save(tmp_path / "labels" / split / f"{name[0]}.png")
    return tmp_path


def read(root: Path) -> tuple[Dataset, list[str]]:
    """The training split, and its warnings."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        return create_dataset("label_maps", root=str(root), **CLASSES), [str(one.message) for one in caught]


def test_nothing_is_said_about_a_correct_set(root):
    """Other files beside images are not images. A folder behind a link is read once, although it links to itself."""
    for other in ("Thumbs.db", "a.json", "readme.txt", "._a.jpg"):
        (root / FOLDER / other).touch()
    for kind in ("images", "labels"):
        outside = root / "outside" / kind
        outside.mkdir(parents=True)
        shutil.copy(root / "labels/train/a.png", outside / "d.png")
        (root / kind / "train" / "linked").symlink_to(outside)
        (outside / "again").symlink_to(outside)
    dataset, said = read(root)
    assert len(dataset) == 4 and not said


def test_images_of_formats_that_are_not_read_are_counted(root):
    """a.heic is the source of a.jpg, so that its image is not left out."""
    for other in ("a.heic", "new.HEIC", "half.jpg.tmp"):
        (root / FOLDER / other).touch()
    dataset, [text] = read(root)
    assert len(dataset) == 3
    assert "5 images found: 3 used, 2 left out (2 of a format that is not read: " in text
    assert f"{FOLDER}/half.jpg.tmp, {FOLDER}/new.HEIC). Convert them to JPEG or PNG." in text


def test_images_that_no_json_names_are_counted_if_their_format_is_not_read(tmp_path):
    for split in ("train", "val"):
        (tmp_path / split).mkdir()
        Image.fromarray(noise(0, 6, 8)).save(tmp_path / split / "a.jpg")
        document = {"images": [{"id": 1, "file_name": "a.jpg"}], "categories": [{"id": 1, "name": "x"}]}
        (tmp_path / f"{split}.json").write_text(json.dumps(document | {"annotations": []}))
    for other in ("a.heic", "new.HEIC"):
        (tmp_path / "train" / other).touch()
    with pytest.warns(UserWarning, match=r"2 images found: 1 used, 1 left out \(1 of a format that is not read: new"):
        assert len(create_dataset("coco", root=str(tmp_path))) == 1


def test_a_label_of_an_image_in_another_format_names_it(root):
    (root / FOLDER / "a.jpg").rename(root / FOLDER / "a.heic")
    with pytest.raises(DataError, match=r"labels/train/a\.png has no image\. .* in a format that is read \(\.jpg"):
        read(root)


def test_pairs_without_a_file_are_left_out_with_on_error_skip(root):
    (root / FOLDER / "a.jpg").unlink()
    (root / "labels" / "train" / "b.png").unlink()
    section = DataSection(name="label_maps", root=str(root), on_error="skip", **CLASSES)
    with pytest.warns(UserWarning, match=r"2 of 3 images or labels lack a file and are left out .*a\.png has no image"):
        assert len(build_split(section, "train")) == 1
