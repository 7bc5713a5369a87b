"""Images with label files: layouts, encodings, presets, and invalid files, each found at startup."""

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from densevit.data.datasets.label_maps import LabelMaps
from densevit.data.datasets.label_values import Ignored
from densevit.errors import DataError
from tests.data.coco_folder import noise
from tests.data.datasets.conftest import LABEL, opened, semantic
from tests.written_files import save_image

NAMES = ["road", "tree", "car"]


def test_samples_classes_and_sizes(tmp_path, pairs):
    pairs()
    dataset = opened(
        LabelMaps, "train", root=str(tmp_path), classes=["road", "tree", {"name": "car", "color": [1, 2, 3]}]
    )
    assert len(dataset) == 2 and dataset.provides == ("semantic",)
    assert dataset.sizes().tolist() == [[3, 4]] * 2
    assert [(c.name, c.file_id) for c in dataset.classes["segmentation"]] == [("road", 0), ("tree", 1), ("car", 2)]
    assert dataset.classes["segmentation"][2].color == (1, 2, 3)
    sample = dataset[0]
    assert set(sample["targets"]) == {"image_id", "semantic"}
    assert sample["targets"]["image_id"] == "a" and dataset[1]["targets"]["image_id"] == "b"
    assert sample["image"].shape == (3, 3, 4) and sample["image"].dtype == torch.uint8
    assert semantic(dataset) == LABEL.tolist() == semantic(pickle.loads(pickle.dumps(dataset)))
    assert len(opened(LabelMaps, "train", root=str(tmp_path), classes=NAMES, limit=1)) == 1


INVALID_LABELS: dict[str, tuple[np.ndarray, list[Any], str]] = {
    # label, classes, facts of the error
    "a value that no class has": (
        np.where(LABEL == 2, 17, LABEL),
        NAMES,
        r"labels/train/a\.png .*: 17 in 3 pixels \(25\.0%\).*Known: 0 to 2; ignored: 255.*data\.classes.*ignore\.index",
    ),
    "classes counted from 1": (np.where(LABEL == 255, 0, LABEL + 1), NAMES, r"3 in 3 .*data\.ignore\.zero=true"),
    "a colour that no class has": (
        np.full((3, 4, 3), (5, 6, 7)),
        [{"name": "road", "color": [1, 1, 1]}, "sky"],
        r"a\.png .*\(5, 6, 7\) in 12 pixels \(100\.0%\).*Known: 1 col",
    ),
    "colours of classes without": (np.full((3, 4, 3), (5, 6, 7)), NAMES, r"a\.png .*colours, but data\.classes has no"),
    "another size than the image": (LABEL[:2], NAMES, r"a\.jpg.*4 x 3.*a\.png.*4 x 2"),
    "every pixel ignored": (np.full_like(LABEL, 255), NAMES, r"a\.png.*'train'.*every pixel is ignored"),
    "the colour of several classes": (
        np.ones((3, 4, 3)),
        [{"name": name, "color": [1, 1, 1]} for name in NAMES],
        r"\(1, 1, 1\) occurs twice",
    ),
}


@pytest.mark.parametrize("case", INVALID_LABELS)
def test_labels_that_do_not_fit_the_classes_are_named(case, tmp_path, pairs):
    values, classes, facts = INVALID_LABELS[case]
    pairs(values.astype(np.uint8))
    with pytest.raises(DataError, match=f"(?s){facts}"):
        opened(LabelMaps, "train", root=str(tmp_path), classes=classes)


def test_equal_names_raise(tmp_path, pairs, write_image):
    pairs()
    write_image("images/train/a.png")
    with pytest.raises(DataError, match=r"a\.jpg and .*a\.png have the same name"):
        opened(LabelMaps, "train", root=str(tmp_path), classes=NAMES)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"classes": None}, r"data\.classes is missing"),
        ({"classes": ["a", "a"]}, r"the name 'a' occurs twice"),
        ({"classes": ["a", {"name": "b", "id": 0}]}, r"the id 0 occurs twice"),
        ({"classes": [7]}, r"data\.classes\[0\]: .* found 7\. Expected a name"),
        ({"ignore": Ignored(1)}, r"The label value 1 is both that of a class"),
        ({"limit": 0}, r"data\.limit is 0"),
        ({"root": None}, r"data\.root is missing"),
        ({"preset": "ade"}, r"data\.preset: there is no 'ade'\. Presets: ade20k, camvid"),
        ({"labels": "*.gif"}, r"data\.labels: .* holds no files"),
        ({"root": "nowhere"}, r"data\.root.*nowhere"),
        ({"classes": [{"id": 0}, "tree"]}, r"data\.classes\[0\].*name"),
        ({"classes": [{"name": "road", "idd": 1}, "tree"]}, r"data\.classes\[0\]\.idd.*id or ids"),
        ({"classes": [{"name": "road", "id": 70000}, "tree"]}, r"70000.*0 to 65535"),
    ],
)
def test_invalid_options_raise(given, message, tmp_path, pairs):
    pairs()
    with pytest.raises(DataError, match=message):
        opened(LabelMaps, "train", **({"root": str(tmp_path), "classes": NAMES} | given))


ROAD, TREE = (128, 64, 128), (0, 128, 0)


def colored(root: Path, layout: tuple[str, str] = ("images/train", "labels/train"), indexed: bool = False) -> Path:
    """Four images with label maps of a half road and a half tree."""
    values = np.repeat(np.array([0, 1], np.uint8), 8)[None].repeat(12, axis=0)
    for k in range(4):
        save_image(root / layout[0] / f"{k}.png", noise(k, 12, 16))
        written = Image.fromarray(values if indexed else np.array([ROAD, TREE], np.uint8)[values])
        if indexed:
            written.putpalette([*ROAD, *TREE] + [0] * 762)
        save_image(root / layout[1] / f"{k}.png", written)
    return root


def test_colours_without_classes_are_listed_to_paste(tmp_path):
    root = colored(tmp_path)
    with pytest.raises(DataError) as caught:
        opened(LabelMaps, "train", root=str(root))
    text = str(caught.value)
    assert "Found in 4 label maps" in text
    pasted = yaml.safe_load(text[text.index("classes:\n") :])["classes"]
    assert sorted(tuple(one["color"]) for one in pasted) == [TREE, ROAD] and text.count("# 50.00%") == 2
    assert sum(len(opened(LabelMaps, split, root=str(root), classes=pasted)) for split in ("train", "val")) == 4
    assert LabelMaps.recognise(root) == {"classes": pasted}


@pytest.mark.parametrize("indexed", [False, True])
def test_segmentation_masks_of_cvat_are_read_by_their_labelmap(indexed, tmp_path):
    root = colored(tmp_path, ("JPEGImages", "SegmentationClass"), indexed)
    lists = root / "ImageSets" / "Segmentation"
    lists.mkdir(parents=True)
    (lists / "default.txt").write_text("0\n1\n2\n3\n")
    lines = ["# label:color_rgb:parts:actions", "background:0,0,0::", "tree:0,128,0::", "road:128,64,128::"]
    (root / "labelmap.txt").write_text("\n".join(lines))
    assert LabelMaps.recognise(root) == {}
    train, val = (opened(LabelMaps, split, root=str(root)) for split in ("train", "val"))
    assert len(train) + len(val) == 4 and 1 <= len(val) <= 2
    assert [one.name for one in train.classes["segmentation"]] == ["background", "tree", "road"]
    assert semantic(val)[0] == [2] * 8 + [1] * 8
    (root / "labelmap.txt").write_text("tree:0,128\n")
    with pytest.raises(DataError, match=r"labelmap\.txt, line 1: 'tree:0,128'; expected name:red,green,blue::"):
        opened(LabelMaps, "train", root=str(root))
