"""densevit/data/datasets/image_files.py: what readers of folders leave out is counted by reason in one line."""

import shutil
from pathlib import Path

from densevit.data.dataset_builder import create_dataset
from densevit.interfaces import Dataset
from tests.recorded_warnings import recorded_warnings

CLASSES, FOLDER = {"classes": ["x", "y"]}, "images/train"


def read(root: Path) -> tuple[Dataset, list[str]]:
    """The training split, and its warnings."""
    with recorded_warnings() as messages:
        return create_dataset("label_maps", root=str(root), **CLASSES), messages


def test_nothing_is_said_about_a_correct_set(jpeg_pairs):
    """Other files beside images are not images. A folder behind a link is read once, although it links to itself."""
    for other in ("Thumbs.db", "a.json", "readme.txt", "._a.jpg"):
        (jpeg_pairs / FOLDER / other).touch()
    for kind in ("images", "labels"):
        outside = jpeg_pairs / "outside" / kind
        outside.mkdir(parents=True)
        shutil.copy(jpeg_pairs / "labels/train/a.png", outside / "d.png")
        (jpeg_pairs / kind / "train" / "linked").symlink_to(outside)
        (outside / "again").symlink_to(outside)
    dataset, said = read(jpeg_pairs)
    assert len(dataset) == 4 and not said


def test_images_of_formats_that_are_not_read_are_counted(jpeg_pairs):
    """a.heic is the source of a.jpg, so that its image is not left out."""
    for other in ("a.heic", "new.HEIC", "half.jpg.tmp"):
        (jpeg_pairs / FOLDER / other).touch()
    dataset, [text] = read(jpeg_pairs)
    assert len(dataset) == 3
    assert "5 images found: 3 used, 2 left out (2 of a format that is not read: " in text
    assert f"{FOLDER}/half.jpg.tmp, {FOLDER}/new.HEIC). Convert them to JPEG or PNG." in text
