"""Exports of label tools that no data set reads: each is named, with the command or the export to choose."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as rle

from densevit.data.datasets.coco_dataset import Coco
from densevit.errors import DataError
from densevit_workbench.doctor.source import find_source
from densevit_workbench.interchange.dataset_conversion import convert_dataset
from tests.workbench.interchange.files import image
from tests.written_files import write_text, write_texts

TASK = {"id": 1, "data": {"image": "/data/upload/1/0a1b2c3d-a.png"}, "annotations": [{"result": []}]}
SEGMENTS = {"images": [], "annotations": [{"segments_info": []}], "categories": []}
EXPORTS = {  # the files of each tool's export, and what the error says of it
    "CVAT": (
        {"annotations.xml": "<?xml version='1.0'?><annotations><image/></annotations>"},
        "CVAT's own .* COCO 1\\.0",
    ),
    "Datumaro": (
        {"annotations/default.json": json.dumps({"infos": {}, "categories": {}, "items": [{"id": "a"}]})},
        "Datumaro's .* datum convert -i {root} -if datumaro -f coco",
    ),
    "Label Studio": ({"export.json": json.dumps([TASK])}, "Label Studio's .* data convert label_studio {root}/export"),
    "COCO panoptic": (
        {"annotations/panoptic_all.json": json.dumps(SEGMENTS)},
        "COCO's panoptic .* data\\.name=coco_panoptic .* data convert coco_panoptic {root} NEW",
    ),
    "Supervisely": (
        {
            "meta.json": json.dumps({"classes": [], "tags": []}),
            "ds0/ann/a.png.json": json.dumps(
                {"size": {}, "objects": [{"classTitle": "a", "geometryType": "rectangle"}]}
            ),
        },
        "Supervisely's .* Export to COCO",
    ),
    "LabelMe 3.0": (
        {
            "a.xml": "<annotation><filename>a.png</filename><object><name>a</name><polygon><pt><x>1</x><y>2</y></pt>"
            "</polygon></object></annotation>"
        },
        "LabelMe 3\\.0's .* -if label_me",
    ),
    "KITTI": ({"training/label_2/0.txt": f"Car 0.00 0 -1.58 {' '.join(['1.5'] * 11)}\n"}, "KITTI's .* -if kitti "),
    "MOT": ({"gt/gt.txt": "1,1,912,484,97,109,1,1,1\n"}, "MOT's .* -if mot_seq"),
    "Open Images": (
        {"train-annotations-bbox.csv": "ImageID,Source,LabelName,Confidence,XMin,XMax\na,x,/m/1,1,0,1\n"},
        "Open Images' .* data convert open_images",
    ),
    "Roboflow CSV": (
        {"train/_annotations.csv": "filename,width,height,class,xmin,ymin,xmax,ymax\na.png,9,9,a,1,1,2,2\n"},
        "Roboflow's CSV.* export it as COCO",
    ),
    "Roboflow masks": (
        {"train/_classes.csv": "Pixel Value, Class\n0, background\n1, road\n"},
        "Roboflow's masks.* data\\.name=label_maps data\\.images='{{split}}/\\*\\.jpg' .*_mask\\.png' "
        "data\\.classes='\\[background, road\\]'",
    ),
}


@pytest.mark.parametrize("tool", EXPORTS)
def test_doctor_and_training_name_the_export(tool: str, tmp_path: Path):
    files, text = EXPORTS[tool]
    image(tmp_path / "a.png")
    write_texts(tmp_path, files)
    message = rf"^{re.escape(str(tmp_path))}/\S+ is in {text.format(root=re.escape(str(tmp_path)))}[^\n]*\.$"
    with pytest.raises(DataError, match=message):
        find_source(str(tmp_path))
    with pytest.raises(DataError, match=message):
        Coco("train", root=str(tmp_path))


def region(region_type: str, **value: Any) -> dict[str, Any]:
    return {"id": region_type, "type": region_type, "value": {**value, region_type: ["cat"]}}


def test_label_studios_regions_are_boxes_and_masks(tmp_path: Path):
    """Per cent of an image of 64 x 48; a rectangle turns about its upper left corner, clockwise."""
    root = tmp_path / "in"
    image(root / "images" / "a.png")
    box = {"x": 10, "y": 25, "width": 20, "height": 50}
    regions = [
        region("rectanglelabels", **box),
        region("rectanglelabels", **{**box, "x": 50}, rotation=90),
        region("polygonlabels", points=[[0, 0], [50, 0], [50, 50]]),
        region("ellipselabels", x=50, y=50, radiusX=25, radiusY=25),
        region("brushlabels", format="rle", rle=[1]),
    ]
    task = {**TASK, "annotations": [{"was_cancelled": True, "result": regions[:1]}, {"result": regions}]}
    write_text(root / "export.json", json.dumps([task]))
    with pytest.warns(UserWarning, match=r"5 regions found: 4 used, 1 left out \(1 of the type brushlabels"):
        result = convert_dataset("label_studio", root, tmp_path / "out", splits={"train": 1.0})
    [converted] = result.splits["train"]
    assert converted.path.name == "a.png"
    first, rotated, triangle, ellipse = converted.objects
    assert np.allclose(first.bbox, (6.4, 12, 12.8, 24)) and first.segmentation is None
    assert np.allclose(rotated.bbox, (32 - 24, 12, 24, 12.8)) and rotated.more["attributes"] == {"rotation": 90}
    assert triangle.bbox == (0, 0, 32, 24) and triangle.segmentation == [[0, 0, 32, 0, 32, 24]]
    assert np.allclose(ellipse.bbox, (16, 12, 32, 24)) and ellipse.area == pytest.approx(np.pi * 16 * 12, rel=0.01)


def test_things_of_panoptic_maps_become_boxes_and_masks(tmp_path: Path):
    ids = np.zeros((48, 64), np.uint32)
    ids[5:15, 10:30], ids[20:, :] = 7, 300
    colours = np.stack([ids % 256, ids // 256 % 256, ids // 65536], axis=2).astype(np.uint8)
    segments = [
        {"id": 7, "category_id": 3, "iscrowd": 0, "bbox": [10, 5, 20, 10], "area": 200},
        {"id": 300, "category_id": 9, "iscrowd": 0, "bbox": [0, 20, 64, 28], "area": 1792},
    ]
    categories = [{"id": 3, "name": "cat", "isthing": 1}, {"id": 9, "name": "sky", "isthing": 0}]
    for n, split in enumerate(("train", "val")):
        image(tmp_path / "in" / split / f"{n}.png")
        folder = tmp_path / "in" / f"panoptic_{split}"
        folder.mkdir()
        Image.fromarray(colours).save(folder / f"{n}.png")
        entry = {"image_id": n, "file_name": f"{n}.png", "segments_info": segments}
        images = [{"id": n, "file_name": f"{n}.png", "width": 64, "height": 48}]
        document = {"images": images, "annotations": [entry], "categories": categories}
        write_text(tmp_path / "in" / f"panoptic_{split}.json", json.dumps(document))
    result = convert_dataset("coco_panoptic", tmp_path / "in", tmp_path / "out")
    assert result.classes == ("cat",) and {split: len(images) for split, images in result.splits.items()} == {
        "train": 1,
        "val": 1,
    }
    [cat] = json.loads((tmp_path / "out" / "annotations/instances_val.json").read_text())["annotations"]
    assert cat["bbox"] == [10, 5, 20, 10] and cat["area"] == 200 and cat["category_id"] == 3
    assert np.array_equal(rle.decode(cat["segmentation"]) > 0, ids == 7)
