"""densevit/data/datasets/label_shares.py: 255 that may be a class, classes without pixels, and single classes."""

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from densevit.data.datasets.label_maps import LabelMaps
from densevit.data.datasets.label_values import Ignored
from densevit.errors import DataError
from tests.data.datasets.conftest import opened
from tests.written_files import save_image

LESION = np.array([[0, 0, 0, 255]] * 3, np.uint8)  # a binary mask, a quarter is 255


def write(root: Path, label: Image.Image | np.ndarray, names: str = "ab") -> str:
    """Two pairs in each split. Returns the root."""
    image = label if isinstance(label, Image.Image) else Image.fromarray(label)
    for split in ("train", "val"):
        for seed, name in enumerate(names):
            pixels = np.random.default_rng([seed, split == "val"]).integers(0, 256, (image.height, image.width, 3))
            save_image(root / "images" / split / f"{name}.png", pixels.astype(np.uint8))
            save_image(root / "labels" / split / f"{name}.png", image)
    return str(root)


def semantic(root: str, classes: list[Any], **options: Any) -> list[list[int]]:
    """The first label map of training, without any warning."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        dataset = opened(LabelMaps, "train", root=root, classes=classes, **options)
    dataset.check_labels()
    found: list[list[int]] = dataset[0]["targets"]["semantic"].tolist()
    return found


def test_binary_masks_of_255_are_an_error_whose_fix_reads_them(tmp_path):
    root = write(tmp_path, LESION)
    for split in ("train", "val"):
        with pytest.raises(DataError) as caught:
            opened(LabelMaps, split, root=root, classes=["background", "lesion"])
        message = str(caught.value)
        for fact in (root, repr(split), "'lesion'", "0 = background (75.00%)", "255, ignored (25.00%)"):
            assert fact in message
    fixed = yaml.safe_load(message[message.index("data.classes: ") + len("data.classes: ") :].partition(". If")[0])
    assert semantic(root, ["background", fixed]) == [[0, 0, 0, 1]] * 3
    assert "data.ignore.index=255" in message


def test_255_of_many_pixels_is_an_error_only_if_a_class_has_none(tmp_path):
    label = np.array([[0, 0, 1, 255]] * 3, np.uint8)
    root = write(tmp_path, label)
    assert semantic(root, ["a", "b"]) == label.tolist()
    message = r"no pixel has the class 'c'\. Values found: 0 = a \(50\.00%\), 1 = b \(25\.00%\)"
    with pytest.raises(DataError, match=message):
        opened(LabelMaps, "train", root=root, classes=["a", "b", "c"])
    assert len(opened(LabelMaps, "val", root=root, classes=["a", "b", "c"]))  # a rare class may have no pixel there
    assert len(opened(LabelMaps, "train", root=root, classes=["a", "b", "c"], ignore=Ignored(255)))


def test_training_on_a_single_class_is_an_error_and_evaluation_is_not(tmp_path):
    root = write(tmp_path, LESION)
    options: Any = {"root": root, "classes": ["background", "lesion"], "ignore": Ignored(255)}
    opened(LabelMaps, "val", **options).check_labels()
    with pytest.raises(DataError, match=r"all labelled pixels have the class 'background'"):
        opened(LabelMaps, "train", **options).check_labels()
    nothing = LabelMaps("train", root=root, classes=["x", "y"], ignore=Ignored(zero=True))
    with pytest.raises(DataError, match=r"is ignored, .* data\.ignore\.index"):
        nothing.check_labels()


def test_binary_masks_without_classes_are_suggested_with_255(tmp_path):
    root = write(tmp_path, LESION)
    recognised = LabelMaps.recognise(Path(root))
    assert recognised == {"classes": [{"name": "value 0", "id": 0}, {"name": "value 255", "id": 255}]}
    assert semantic(root, recognised["classes"]) == [[0, 0, 0, 1]] * 3
