"""What readers of image folders leave out: counted by reason in one line, and nothing for a correct data set."""

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from densevit.config import DataSection
from densevit.data.dataset_builder import build_split, create_dataset
from densevit.errors import DataError
from densevit.interfaces import Dataset

Layout = tuple[str, dict[str, Any], str]  # name, options, the folder of an image of the training split


def save(path: Path, pixels: np.ndarray, **how: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **how)


def noise(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (6, 8, 3)).astype(np.uint8)


def paired(root: Path, labels: np.ndarray) -> None:
    for split in ("train", "val"):
        for index, name in enumerate(("a.jpg", "b.JFIF", "c.jpe")):
            save(root / "images" / split / name, noise(index), format="JPEG")
            save(root / "labels" / split / f"{name[0]}.png", labels)


def label_maps(root: Path) -> Layout:
    paired(root, np.tile(np.array([0, 1], np.uint8), (6, 4)))
    return "label_maps", {"classes": ["x", "y"]}, "images/train"


def image_folder(root: Path) -> Layout:
    for split in ("train", "val"):
        for index, name in enumerate(("cat/a.jpg", "cat/b.JFIF", "dog/c.jpe")):
            save(root / split / name, noise(index), format="JPEG")
    return "image_folder", {}, "train/cat"


def images(root: Path) -> Layout:
    for split in ("train", "val"):
        for index, name in enumerate(("a.jpg", "b.JFIF", "deep/c.jpe")):
            save(root / split / name, noise(index), format="JPEG")
    return "images", {}, "train"


READERS = pytest.mark.parametrize("reader", [label_maps, image_folder, images], ids=lambda one: one.__name__)


def read(root: Path, name: str, options: dict[str, Any]) -> tuple[Dataset, list[str]]:
    """The training split, and its warnings."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        return create_dataset(name, root=str(root), **options), [str(one.message) for one in caught]


@READERS
def test_nothing_is_said_about_a_correct_set(reader, tmp_path):
    """JPEGs may be called .jfif and .jpe, also in capitals; other files beside images are not images.

    A folder behind a link is read once, although it has a link to itself.
    """
    name, options, folder = reader(tmp_path)
    for other in ("Thumbs.db", "a.json", "readme.txt", "._a.jpg"):
        (tmp_path / folder / other).touch()
    dataset, said = read(tmp_path, name, options)
    assert len(dataset) == 3 and not said
    outside = tmp_path.parent / f"{tmp_path.name}-outside"
    save(outside / "d.jpg", noise(9))
    (tmp_path / folder / "linked").symlink_to(outside)
    (tmp_path / folder / "linked" / "again").symlink_to(outside)
    if folder.startswith("images"):
        save(tmp_path / "labels" / "train" / "linked" / "d.png", np.zeros((6, 8), np.uint8))
    dataset, said = read(tmp_path, name, options)
    assert len(dataset) == 4 and not said


@READERS
def test_images_of_formats_that_are_not_read_are_counted(reader, tmp_path):
    """a.heic is the source of a.jpg, so that its image is not left out."""
    name, options, folder = reader(tmp_path)
    for other in ("a.heic", "new.HEIC", "half.jpg.tmp"):
        (tmp_path / folder / other).touch()
    dataset, said = read(tmp_path, name, options)
    assert len(dataset) == 3
    [text] = said
    assert "5 images found: 3 used, 2 left out (2 of a format that is not read: " in text
    assert f"{folder}/half.jpg.tmp, {folder}/new.HEIC). Convert them to JPEG or PNG." in text


def test_a_label_of_an_image_in_another_format_names_it(tmp_path):
    name, options, folder = label_maps(tmp_path)
    (tmp_path / folder / "a.jpg").rename(tmp_path / folder / "a.heic")
    with pytest.raises(DataError, match=r"labels/train/a\.png has no image\. .* in a format that is read \(\.jpg"):
        create_dataset(name, root=str(tmp_path), **options)
    (tmp_path / folder / "a.heic").rename(tmp_path / folder / "a.jpg")
    (tmp_path / "labels" / "train" / "b.png").rename(tmp_path / "labels" / "train" / "b.webp")
    with pytest.raises(DataError, match=r"images/train/b\.JFIF has no label\. .* in a format that is read \(\.png"):
        create_dataset(name, root=str(tmp_path), **options)


def test_pairs_without_a_file_are_left_out_with_on_error_skip(tmp_path):
    name, options, folder = label_maps(tmp_path)
    (tmp_path / folder / "a.jpg").unlink()
    (tmp_path / "labels" / "train" / "b.png").unlink()
    section = DataSection(name=name, root=str(tmp_path), on_error="skip", **options)
    with pytest.warns(UserWarning, match=r"2 of 3 images or labels lack a file and are left out .*a\.png has no image"):
        assert len(build_split(section, "train")) == 1
