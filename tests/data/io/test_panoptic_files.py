"""Predicted panoptic maps as COCO's panoptic PNGs and json, read by Pillow and by the `coco_panoptic` data set."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from densevit.data.datasets.coco_panoptic import CocoPanoptic
from densevit.data.io.map_files import MapFiles
from densevit.evaluation.panoptic import Panoptic
from densevit.interfaces import Class
from tests.written_files import save_image

CLASSES = (Class("person", 1, (220, 20, 60)), Class("car", 3, (0, 0, 142)), Class("sky", 300, (70, 130, 180), False))


def write(folder: Path, images: dict[int | str, Any], classes: tuple[Class, ...] = CLASSES) -> None:
    files = MapFiles(folder, {"head": classes})
    for image_id, ids in images.items():
        files.add_image("head", image_id, {"panoptic": torch.as_tensor(np.array(ids, np.int32))})
    files.finish()


def test_segments_have_ids_by_colour_and_their_area_and_box(tmp_path):
    write(tmp_path, {9: [[-1, 1001, 1001, 2000], [0, 1001, 2000, 2000], [0, -1, -1, 2000]]})
    image = Image.open(tmp_path / "panoptic" / "9.png")
    assert image.mode == "RGB"
    ids = np.array(image).astype(int) @ [1, 256, 65536]
    assert ids.tolist() == [[0, 1002, 1002, 2001], [1, 1002, 2001, 2001], [1, 0, 0, 2001]]
    content = json.loads((tmp_path / "panoptic.json").read_text())
    assert content["images"] == [{"id": 9, "file_name": "9", "width": 4, "height": 3}]
    assert [one["isthing"] for one in content["categories"]] == [1, 1, 0]
    assert content["categories"][2] == {"id": 300, "name": "sky", "isthing": 0, "color": [70, 130, 180]}
    [annotation] = content["annotations"]
    assert annotation["image_id"] == 9 and annotation["file_name"] == "9.png"
    assert annotation["segments_info"] == [
        {"id": 1, "category_id": 1, "area": 2, "bbox": [0, 1, 1, 2], "iscrowd": 0},
        {"id": 1002, "category_id": 3, "area": 3, "bbox": [1, 0, 2, 2], "iscrowd": 0},
        {"id": 2001, "category_id": 300, "area": 4, "bbox": [2, 0, 2, 3], "iscrowd": 0},
    ]
    assert [path.name for path in tmp_path.rglob("*.*") if path.is_file()] == ["panoptic.json", "9.png"]


def test_written_files_are_a_panoptic_data_set_with_a_quality_of_one(tmp_path):
    """Images in subfolders, one in grey, and one without segments."""
    rng = np.random.default_rng(0)
    expected = {name: rng.integers(-1, 2, (5, 7)) * 1000 for name in ("town/1", "town/2", "3")}
    expected = {name: np.where(ids < 0, -1, ids + rng.integers(0, 2, (5, 7))) for name, ids in expected.items()}
    expected |= {"empty": np.full((5, 7), -1)}
    for name in expected:
        save_image(tmp_path / f"{name}.png", Image.new("L" if name == "3" else "RGB", (7, 5)))
    images = {name: {"id": number, "file_name": f"{name}.png"} for number, name in enumerate(expected)}
    files, annotated = MapFiles(tmp_path / "found", {"head": CLASSES}), []
    for name, ids in expected.items():
        entries = files.add("head", name, {"panoptic": ids.astype(np.int32)}, images[name])
        annotated.append(entries["panoptic"])
    files.write_annotations("head", "panoptic", annotated)

    again = CocoPanoptic(
        "panoptic", str(tmp_path), annotations="found/{split}.json", segments="found/panoptic", images="."
    )
    assert again.classes["panoptic"] == CLASSES
    evaluator = Panoptic(again.classes["panoptic"])
    for index, ids in enumerate(expected.values()):
        truth = again[index]["targets"]
        evaluator.update([{"panoptic": torch.from_numpy(ids)}], [truth])
        assert torch.equal(truth["panoptic"] == -1, torch.from_numpy(ids == -1))
    assert {name: evaluator.metrics()[name] for name in ("PQ", "SQ", "RQ")} == {"PQ": 1, "SQ": 1, "RQ": 1}
