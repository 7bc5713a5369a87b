"""Converted data sets and predictions in the layout of Datumaro, which CVAT imports."""

import json
from pathlib import Path

import pytest

import densevit
from tests.batch.test_prelabels import MODEL, folder
from tests.workbench.interchange.test_dataset_conversion import coco


@pytest.mark.slow
def test_datumaro_reads_converted_data_and_predictions(tmp_path: Path) -> None:
    datumaro = pytest.importorskip("datumaro")
    densevit.convert_dataset("coco", coco(tmp_path / "in"), tmp_path / "out", {"train": 0.8, "val": 0.2})
    entries = [{"image_id": "photos/1", "category_id": 7, "bbox": [1.5, 2, 10, 20], "score": 0.75}]
    densevit.prelabel(folder(tmp_path, entries), MODEL, tmp_path / "labels", threshold=0.5)
    for root in (tmp_path / "out", tmp_path / "labels"):
        assert datumaro.Environment().detect_dataset(str(root)) == ["coco_instances"]
        boxes, images = [], 0
        for item in datumaro.Dataset.import_from(str(root), "coco"):
            images += item.media is not None and Path(item.media.path).is_file()
            boxes += [tuple(a.get_bbox()) for a in item.annotations if a.type.name == "bbox"]
        files = sorted((root / "annotations").glob("*.json"))
        written = [tuple(a["bbox"]) for file in files for a in json.loads(file.read_text())["annotations"]]
        assert sorted(boxes) == sorted(written) and images == (60 if root.name == "out" else 0)
