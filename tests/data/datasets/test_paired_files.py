"""densevit/data/datasets/paired_files.py: images and labels without the other."""

import pytest

from densevit.config import DataSection
from densevit.data.dataset_builder import build_split
from densevit.errors import DataError
from tests.data.datasets.test_image_files import CLASSES, FOLDER, read


def test_a_label_of_an_image_in_another_format_names_it(jpeg_pairs):
    (jpeg_pairs / FOLDER / "a.jpg").rename(jpeg_pairs / FOLDER / "a.heic")
    with pytest.raises(DataError, match=r"labels/train/a\.png has no image\. .* in a format that is read \(\.jpg"):
        read(jpeg_pairs)


def test_pairs_without_a_file_are_left_out_with_on_error_skip(jpeg_pairs):
    (jpeg_pairs / FOLDER / "a.jpg").unlink()
    (jpeg_pairs / "labels" / "train" / "b.png").unlink()
    section = DataSection(name="label_maps", root=str(jpeg_pairs), on_error="skip", **CLASSES)
    with pytest.warns(UserWarning, match=r"2 of 3 images or labels lack a file and are left out .*a\.png has no image"):
        assert len(build_split(section, "train")) == 1
