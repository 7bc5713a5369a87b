"""Files of one name in three folders, with different pixels: through readers and writers of images, and back."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from densevit.cli import main
from densevit.data.dataset_builder import create_dataset
from densevit.data.io.image_names import drawing_names, image_names
from densevit.errors import DataError
from densevit.inference.input_images import find_images
from densevit.interfaces import Class, Dataset

SHADES = {"a": 10, "b": 90, "c": 170}  # of each folder's image
SIZE = (8, 6)  # width, height


def png(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((SIZE[1], SIZE[0], *np.shape(value)), value, np.uint8)).save(path)


def write_images(root: Path, folder: str) -> None:
    for name, shade in SHADES.items():
        for split in ("train", "val"):
            png(root / folder.replace("{split}", split) / name / "0.png", [shade] * 3)


def label_maps(root: Path) -> dict[str, Any]:
    write_images(root, "images/{split}")
    for index, name in enumerate(SHADES):
        for split in ("train", "val"):
            png(root / "labels" / split / name / "0.png", index)
    return {"name": "label_maps", "classes": ["first", "second", "third"]}


def coco_panoptic(root: Path) -> dict[str, Any]:
    write_images(root, "{split}2017")
    document: dict[str, Any] = {"images": [], "categories": [], "annotations": []}
    for i, name in enumerate(SHADES):
        segment = {"id": 5, "category_id": i, "iscrowd": 0, "area": 48, "bbox": [0, 0, 8, 6]}
        document["images"].append({"id": i, "file_name": f"{name}/0.png", "width": 8, "height": 6})
        document["categories"].append({"id": i, "name": name, "isthing": 0})
        document["annotations"].append({"image_id": i, "file_name": f"{name}/0.png", "segments_info": [segment]})
    for split in ("train", "val"):
        for name in SHADES:
            png(root / f"annotations/panoptic_{split}2017/{name}/0.png", [5, 0, 0])
        (root / f"annotations/panoptic_{split}2017.json").write_text(json.dumps(document))
    return {"name": "coco_panoptic"}


READERS = {label_maps: [0, 1, 2], coco_panoptic: [0, 1000, 2000]}  # labels of the folders


def contents(dataset: Dataset) -> list[tuple[int, float]]:
    """The shade and the label of each image, sorted: of each folder one."""
    found = []
    for index in range(len(dataset)):
        sample = dataset[index]
        [key] = sample["targets"].keys() & {"semantic", "panoptic"}
        [label] = sample["targets"][key].unique().tolist()
        found.append((int(sample["image"][0, 0, 0]), label))
    return sorted(found)


@pytest.mark.parametrize("reader", READERS, ids=lambda reader: reader.__name__)
def test_readers_shards_and_drawings_tell_them_apart(reader, tmp_path):
    options = reader(tmp_path)
    name = options.pop("name")
    dataset = create_dataset(name, root=str(tmp_path), **options)
    expected = list(zip(SHADES.values(), READERS[reader], strict=True))
    assert contents(dataset) == expected
    ids = [dataset[index]["targets"]["image_id"] for index in range(len(dataset))]
    names = image_names(dataset, {image_id: index for index, image_id in enumerate(ids)})
    assert len(names) == len(set(names.values())) == len(set(drawing_names(names.values()).values())) == 3
    if reader is label_maps:
        source = tmp_path / "data.yaml"
        source.write_text(f"name: {name}\nroot: {tmp_path}\n")
        given = ["--split", "train", "data.classes=[first,second,third]"]
        assert main(["shard", str(source), str(tmp_path / "shards"), *given]) == 0
        assert contents(create_dataset("shards", root=str(tmp_path / "shards"))) == expected


CLASSES = (Class("first", 0, (9, 0, 0)), Class("second", 1, (0, 9, 0)), Class("third", 2, (0, 0, 9)))


def test_frames_of_a_video_are_not_named_like_an_image(tmp_path, monkeypatch):
    monkeypatch.setattr("densevit.data.io.videos.count_frames", lambda path: 2)
    for name in ("clip.mp4", "clip_000001.png"):
        (tmp_path / name).touch()
    found = find_images([str(tmp_path / "clip*.*")])
    assert sorted(image.name for image in found) == ["clip-2_000000", "clip-2_000001", "clip_000001"]


def test_lists_and_patterns_that_fit_several_files_are_errors(tmp_path):
    options = label_maps(tmp_path)
    (tmp_path / "list.txt").write_text("0.png\t0.png\n")
    where = {"images": "images/train", "labels": "labels/train", "list_file": "list.txt"}
    with pytest.raises(DataError, match=r"list\.txt, line 1: 0\.png .*a/0\.png, .*b/0\.png"):
        create_dataset("label_maps", root=str(tmp_path), classes=options["classes"], **where)
    coco_panoptic(tmp_path)
    with pytest.raises(DataError, match=r"a/0\.png and .*b/0\.png have the same name, which is the id 0"):
        create_dataset("coco_panoptic", root=str(tmp_path), images="{split}2017/*/*.png")
