"""Rotated boxes of all formats: the box around the rotated corners, which are computed by complex numbers here."""

import cmath
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from densevit.data.dataset_builder import create_dataset
from densevit_workbench.interchange.dataset_conversion import convert_dataset
from tests.workbench.interchange.files import image
from tests.written_files import write_text

DEGREES = (0.0, 30.0, 90.0, 135.0, -60.0, 300.0)
X, Y, W, H = 26.0, 35.0, 44.0, 10.0
SIZE = (96, 80)  # width, height


def corners(degrees: float) -> np.ndarray:
    centre, turn = complex(X + W / 2, Y + H / 2), cmath.exp(1j * math.radians(degrees))  # y down: clockwise
    points = [centre + turn * complex(dx, dy) / 2 for dx, dy in ((-W, -H), (W, -H), (W, H), (-W, H))]
    return np.array([[point.real, point.imag] for point in points])


def coco_document(name: str, record: dict[str, Any]) -> dict[str, Any]:
    images = [{"id": n, "file_name": f"{name}{n}.png", "width": 96, "height": 80} for n in range(len(DEGREES))]
    records = [
        {"id": n, "image_id": n, "category_id": 1, "bbox": [X, Y, W, H]}
        | {"attributes": {"occluded": False, "rotation": degrees}, **record}
        for n, degrees in enumerate(DEGREES)
    ]
    return {"images": images, "annotations": records, "categories": [{"id": 1, "name": "ship"}]}


def coco(root: Path, split: str, area: dict[str, float]) -> None:
    for n in range(len(DEGREES)):
        image(root / split / f"{split}{n}.png", n, SIZE)
    write_text(root / f"{split}.json", json.dumps(coco_document(split, {"segmentation": [], "iscrowd": 0, **area})))


def voc(root: Path, split: str, rolabelimg: bool = False) -> None:
    for n, degrees in enumerate(DEGREES):
        image(root / split / f"{split}{n}.png", n, SIZE)
        box = f"<bndbox><xmin>{X}</xmin><ymin>{Y}</ymin><xmax>{X + W}</xmax><ymax>{Y + H}</ymax></bndbox>"
        box += f"<attributes><attribute><name>rotation</name><value>{degrees}</value></attribute></attributes>"
        if rolabelimg:
            box = f"<type>robndbox</type><robndbox><cx>{X + W / 2}</cx><cy>{Y + H / 2}</cy><w>{W}</w><h>{H}</h>"
            box += f"<angle>{math.radians(degrees)}</angle></robndbox>"
        text = f"<annotation><filename>{split}{n}.png</filename><object><name>ship</name>{box}</object></annotation>"
        write_text(root / split / f"{split}{n}.xml", text)


def labelme(root: Path, split: str) -> None:
    for n, degrees in enumerate(DEGREES):
        image(root / split / f"{split}{n}.png", n, SIZE)
        shape = {"label": "ship", "shape_type": "rotation", "points": corners(degrees).tolist(), "direction": 0}
        write_text(root / split / f"{split}{n}.json", json.dumps({"shapes": [shape], "imagePath": f"{split}{n}.png"}))


SOURCES: dict[str, Any] = {
    "coco": (lambda root, split: coco(root, split, {}), "coco", ("coco",)),
    "coco with area": (lambda root, split: coco(root, split, {"area": W * H}), "coco", ("coco",)),
    "voc": (voc, "voc", ("voc",)),
    "rolabelimg": (lambda root, split: voc(root, split, rolabelimg=True), "voc", ("voc",)),
    "labelme": (labelme, "labelme", ()),
}


@pytest.mark.filterwarnings("ignore:.*counted from 0:UserWarning")
@pytest.mark.parametrize("source", SOURCES)
def test_all_readers_and_converters_use_the_box_around_the_rotated_corners(tmp_path: Path, source: str):
    make, format, read_directly = SOURCES[source]
    root, out, again = tmp_path / "source", tmp_path / "out", tmp_path / "again"
    for split in ("train", "val"):
        make(root, split)
    convert_dataset(format, root, out)
    convert_dataset("coco", out, again)
    for name, folder in [*((name, root) for name in read_directly), ("coco", out), ("coco", again)]:
        dataset = create_dataset(name, "val", root=str(folder))
        assert len(dataset) == len(DEGREES)
        for index in range(len(dataset)):
            degrees = DEGREES[int(dataset.path(index).rpartition("val")[2].removesuffix(".png"))]
            targets, points = dataset[index]["targets"], corners(degrees)
            expected = [*points.min(axis=0), *points.max(axis=0)]
            np.testing.assert_allclose(targets["boxes"][0], expected, atol=1e-4, err_msg=f"{folder} {degrees}")
            assert targets["area"].tolist() == pytest.approx([W * H], abs=1e-4)
    written = {
        one["image_id"]: one
        for one in json.loads((again / "annotations/instances_val.json").read_text())["annotations"]
    }
    if source != "labelme":  # whose polygons are written
        degrees = sorted(one["attributes"]["rotation"] % 360 for one in written.values() if "attributes" in one)
        turned = [one % 360 for one in DEGREES]
        assert [one for one in degrees if one] == pytest.approx(sorted(one for one in turned if one))
