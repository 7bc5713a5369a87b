"""Presets of label maps: classes as in torchvision and the official lists, and the layouts of the public data sets."""

from pathlib import Path

import numpy as np
import pytest
import yaml

from densevit.data.datasets.label_maps import PRESETS, LabelMaps, Preset
from densevit.interfaces import Class
from tests.data.datasets.conftest import Write, semantic
from tests.written_files import write_text

CITY = "train/aachen/aachen_000000_000019"
VOC = ("JPEGImages/2008_000002.jpg", "SegmentationClass{}/2008_000002.png", "ImageSets/Segmentation{}/train.txt")
CONTEXT = tuple(one.format("Context") for one in VOC)
MADE = {  # preset: (image, label, list file, file values, their classes)
    "ade20k": ("images/training/a.jpg", "annotations/training/a.png", None, [0, 1, 13, 150], [255, 0, 12, 149]),
    "camvid": ("images/train/a.jpg", "labels/train/a.png", None, [0, 3, 10, 11], [0, 3, 10, 255]),
    "cityscapes": (
        f"leftImg8bit/{CITY}_leftImg8bit.png", f"gtFine/{CITY}_gtFine_labelIds.png", None,
        [0, 7, 26, 33], [255, 0, 13, 18],
    ),
    "cityscapes_train_ids": (
        f"leftImg8bit/{CITY}_leftImg8bit.png", f"gtFine/{CITY}_gtFine_labelTrainIds.png", None,
        [255, 0, 13, 18], [255, 0, 13, 18],
    ),
    "coco_stuff": ("images/train2017/1.jpg", "annotations/train2017/1.png", None, [0, 89, 91, 181], [0, 79, 80, 170]),
    "coco_stuff_train_ids": (
        "images/train2017/1.jpg", "annotations/train2017/1_labelTrainIds.png", None,
        [255, 79, 80, 170], [255, 79, 80, 170],
    ),
    "pascal_context": (*CONTEXT, [0, 1, 37, 59], [0, 1, 37, 59]),
    "pascal_context_59": (*CONTEXT, [0, 1, 37, 59], [255, 0, 36, 58]),
    "voc": (*(one.format("") for one in VOC), [0, 1, 20, 255], [0, 1, 20, 255]),
}  # fmt: skip


def classes_of(preset: str, folder: Path, write_image: Write, label: Write) -> tuple[Class, ...]:
    """The classes of a preset; checks that its layout is read, with one generated image."""
    image, file, listed, values, indices = MADE[preset]
    write_image(image)
    label(file, np.array([values] * 3, np.uint8))
    if listed:
        write_text(folder / listed, f"{Path(image).stem}\n")
    dataset = LabelMaps("train", root=str(folder), preset=preset)
    assert semantic(dataset) == [indices] * 3
    return dataset.classes["segmentation"]


@pytest.mark.parametrize("preset", sorted(MADE))
def test_each_preset_reads_its_official_layout(preset, tmp_path, write_image, label):
    assert set(MADE) == {file.stem for file in PRESETS.glob("*.yaml")} == set(Preset.__args__)
    classes = classes_of(preset, tmp_path, write_image, label)
    counts = {
        "ade20k": 150,
        "camvid": 11,
        "cityscapes": 19,
        "coco_stuff": 171,
        "voc": 21,
        "pascal_context": 60,
        "pascal_context_59": 59,
    }
    assert len(classes) == counts[preset.removesuffix("_train_ids")]


def test_classes_match_those_of_torchvision_and_the_devkit_colours(tmp_path, write_image, label):
    from torchvision.datasets import Cityscapes
    from torchvision.models._meta import _COCO_CATEGORIES, _VOC_CATEGORIES

    classes = classes_of("cityscapes", tmp_path, write_image, label)
    trained = sorted((c for c in Cityscapes.classes if not c.ignore_in_eval), key=lambda c: c.train_id)
    assert [(c.name, c.file_id, c.color) for c in classes] == [(c.name, c.id, c.color) for c in trained]
    given = yaml.safe_load((PRESETS / "cityscapes.yaml").read_text())
    assert set(given["ignore"]["index"]) - {255} == {c.id for c in Cityscapes.classes if c.ignore_in_eval and c.id >= 0}

    classes = classes_of("voc", tmp_path, write_image, label)
    assert [c.name for c in classes] == ["background", *_VOC_CATEGORIES[1:]]
    for index, one in enumerate(classes):  # VOCcolormap.m: the bits of the index, distributed over red, green and blue
        bits = [index >> place & 1 for place in range(6)]
        assert one.color == tuple(bits[c] * 128 + bits[c + 3] * 64 for c in range(3))

    classes = classes_of("coco_stuff", tmp_path, write_image, label)
    names = {c.file_id + 1: c.name for c in classes}
    of_torchvision = {i: name for i, name in enumerate(_COCO_CATEGORIES) if i > 0 and name != "N/A"}
    assert {i: name for i, name in names.items() if i < 91} == of_torchvision
    assert sorted(i for i in names if i > 90) == list(range(92, 183))
    assert (names[92], names[106], names[149], names[169], names[182]) == ("banner", "clouds", "road", "tree", "wood")
