"""Predicted panoptic maps as COCO's panoptic PNGs and json, read by Pillow and by the `coco_panoptic` data set."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools.coco import COCO
from pycocotools.mask import decode

from densevit.cli import main
from densevit.cli.map_files import MapFiles
from densevit.data.datasets.coco_panoptic import CocoPanoptic
from densevit.errors import DataError
from densevit.evaluation.panoptic import Panoptic
from densevit.interfaces import Class

CLASSES = (Class("person", 1, (220, 20, 60)), Class("car", 3, (0, 0, 142)), Class("sky", 300, (70, 130, 180), False))


def write(folder: Path, images: dict[int | str, Any], classes: tuple[Class, ...] = CLASSES) -> None:
    files = MapFiles(folder, {"head": classes})
    for image_id, ids in images.items():
        files.add_image("head", image_id, {"panoptic": torch.as_tensor(np.array(ids, np.int32))})
    files.finish()


def test_segments_have_ids_by_colour_and_their_area_and_box(tmp_path: Path):
    write(tmp_path, {9: [[-1, 1001, 1001, 2000], [0, 1001, 2000, 2000], [0, -1, -1, 2000]]})
    image = Image.open(tmp_path / "panoptic" / "9.png")
    assert image.mode == "RGB"
    ids = np.array(image).astype(int) @ [1, 256, 65536]
    assert ids.tolist() == [[0, 1002, 1002, 2001], [1, 1002, 2001, 2001], [1, 0, 0, 2001]]
    assert json.loads((tmp_path / "panoptic.json").read_text()) == {
        "images": [{"id": 9, "file_name": "9", "width": 4, "height": 3}],
        "annotations": [
            {
                "image_id": 9,
                "file_name": "9.png",
                "segments_info": [
                    {"id": 1, "category_id": 1, "area": 2, "bbox": [0, 1, 1, 2], "iscrowd": 0},
                    {"id": 1002, "category_id": 3, "area": 3, "bbox": [1, 0, 2, 2], "iscrowd": 0},
                    {"id": 2001, "category_id": 300, "area": 4, "bbox": [2, 0, 2, 3], "iscrowd": 0},
                ],
            }
        ],
        "categories": [
            {"id": 1, "name": "person", "isthing": 1, "color": [220, 20, 60]},
            {"id": 3, "name": "car", "isthing": 1, "color": [0, 0, 142]},
            {"id": 300, "name": "sky", "isthing": 0, "color": [70, 130, 180]},
        ],
    }
    assert [path.name for path in tmp_path.rglob("*.*") if path.is_file()] == ["panoptic.json", "9.png"]


def test_written_files_are_a_panoptic_data_set_with_a_quality_of_one(tmp_path: Path):
    """Images in subfolders, one in grey, and one without segments."""
    rng = np.random.default_rng(0)
    expected = {name: rng.integers(-1, 2, (5, 7)) * 1000 for name in ("town/1", "town/2", "3")}
    expected = {name: np.where(ids < 0, -1, ids + rng.integers(0, 2, (5, 7))) for name, ids in expected.items()}
    expected |= {"empty": np.full((5, 7), -1)}
    for name in expected:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.new("L" if name == "3" else "RGB", (7, 5)).save(tmp_path / f"{name}.png")
    images = {name: {"id": number, "file_name": f"{name}.png"} for number, name in enumerate(expected)}
    files = MapFiles(tmp_path / "found", {"head": CLASSES})
    for name, ids in expected.items():
        files.add("head", name, {"panoptic": ids.astype(np.int32)}, images[name])
    files.finish()

    again = CocoPanoptic("val", str(tmp_path), annotations="found/panoptic.json", segments="found/panoptic", images=".")
    assert again.classes["panoptic"] == CLASSES
    evaluator = Panoptic(again.classes["panoptic"])
    for index, ids in enumerate(expected.values()):
        truth = again[index]["targets"]
        evaluator.update([{"panoptic": torch.from_numpy(ids)}], [truth])
        assert torch.equal(truth["panoptic"] == -1, torch.from_numpy(ids == -1))
    assert {name: evaluator.compute()[name] for name in ("PQ", "SQ", "RQ")} == {"PQ": 1, "SQ": 1, "RQ": 1}


def test_ids_that_no_class_has_and_ambiguous_classes_raise(tmp_path: Path):
    with pytest.raises(DataError, match=r"a: `panoptic` .* from -1 to 3000; expected -1 to 2999"):
        write(tmp_path, {"a": [[-1, 3000]]})
    with pytest.raises(DataError, match="'person' and 'child' have the same file id, 1"):
        write(tmp_path, {"a": [[-1]]}, (*CLASSES, Class("child", 1, (0, 0, 0))))


class MaskModel:
    """Predicts two overlapping masks and their panoptic map; in an image of 4 x 4 pixels nothing."""

    def __init__(self) -> None:
        self.classes = {"panoptic": CLASSES}
        self.target_types: dict[str, Any] = {}
        self.default_thresholds, self.score_thresholds = {"panoptic": 0.5}, dict[str, float]()
        self.fingerprint = "none"
        self.model = self

    def merges_windows(self, head: str) -> bool:
        return False

    def predict(self, images: list[np.ndarray], *given: Any, **options: Any) -> list[Any]:
        return [self.see(*image.shape[:2]) for image in images]

    def see(self, height: int, width: int) -> Any:
        masks = torch.zeros(2, height, width, dtype=torch.bool)
        masks[0, :2, :3], masks[1, 1:4, 1:] = True, True
        boxes = torch.tensor([[0, 0, 3, 2], [1, 1, width, 4.0]])
        panoptic = torch.full((height, width), -1, dtype=torch.int32)
        panoptic[masks[1]], panoptic[masks[0]] = 1000, 0
        found = {"masks": masks, "boxes": boxes, "labels": torch.tensor([0, 1]), "scores": torch.tensor([0.9, 0.25])}
        if (height, width) == (4, 4):
            return {key: value[:0] for key, value in found.items()} | {"panoptic": torch.full_like(panoptic, -1)}
        return found | {"panoptic": panoptic}


def test_predict_writes_masks_that_pycocotools_reads_and_panoptic_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("densevit.inference.loading.load", lambda run, device, trust, runtime: MaskModel())
    for name, mode, size in (("a/1.png", "RGB", (6, 5)), ("b/1.png", "L", (7, 4)), ("b/nothing.png", "RGB", (4, 4))):
        Path(name).parent.mkdir(exist_ok=True)
        Image.new(mode, size).save(name)
    assert main(["predict", "RUN", "a", "b", "--out", "found"]) == 0

    results = COCO()
    results.dataset = {
        "images": json.loads(Path("found/images.json").read_text()),
        "categories": [{"id": c.file_id, "name": c.name} for c in CLASSES],
    }
    results.createIndex()
    found = results.loadRes("found/predictions.json")
    assert [one["category_id"] for one in found.anns.values()] == [1, 3, 1, 3]
    for index, (name, size) in enumerate((("a/1.png", (5, 6)), ("b/1.png", (4, 7)))):
        expected = MaskModel().see(*size)
        entries = found.imgToAnns[name]
        assert [one["bbox"] for one in entries] == [[0, 0, 3, 2], [1, 1, size[1] - 1, 3]]
        assert [one["score"] for one in entries] == pytest.approx([0.9, 0.25])
        masks = np.stack([decode(one["segmentation"]) for one in entries])
        assert np.array_equal(masks, expected["masks"])
        again = CocoPanoptic("val", ".", annotations="found/panoptic.json", segments="found/panoptic", images=".")
        assert torch.equal(again[index]["targets"]["panoptic"], expected["panoptic"])
    assert not found.imgToAnns["nothing.png"] and not len(again[2]["targets"]["boxes"])
