"""Results as JSON, tables and detections of another library."""

import json
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from pycocotools import mask

import densevit
from densevit.errors import DensevitError
from densevit.inference.result import Result
from densevit.interfaces import Class
from tests.inference.test_result import ALL, IMAGE, both, detection, objects, semantic, two_detectors


def decoded(code: dict) -> np.ndarray:
    return mask.decode({"size": code["size"], "counts": code["counts"].encode()}).astype(bool)


def test_json_has_the_objects_of_each_head():
    masks = torch.zeros(3, 4, 6, dtype=torch.bool)
    masks[1, 1:3, 2:5] = True
    found = json.loads(detection(masks=masks).to_json())
    assert (found["height"], found["width"]) == (4, 6) and [*found["heads"]] == ["boxes"]
    first, second, _ = found["heads"]["boxes"]["objects"]
    assert not decoded(first.pop("mask")).any() and np.array_equal(decoded(second["mask"]), masks[1].numpy())
    assert first == {"name": "dog", "label": 1, "box": [0, 0, 2, 2], "score": pytest.approx(0.9)}


def test_json_has_label_maps_and_panoptic_maps_as_run_length_codes_and_no_depth():
    found = json.loads(both().to_json())["heads"]
    assert found["depth"] == {} and [*found["all"]] == ["semantic"] and len(found["things"]["objects"]) == 3
    assert [(one["name"], one["label"]) for one in found["all"]["semantic"]] == [("cat", 0), ("sky", 2)]
    assert np.array_equal(decoded(found["all"]["semantic"][0]["mask"]), semantic().numpy() == 0)
    ids = torch.where(semantic() == 2, 2000, -1).int()
    panoptic = Result(IMAGE, (4, 6), {"all": {"panoptic": ids}}, {"all": ALL})
    [segment] = json.loads(panoptic.to_json())["heads"]["all"]["panoptic"]
    assert (segment["name"], segment["label"], segment["id"]) == ("sky", 2, 2000)
    assert np.array_equal(decoded(segment["mask"]), semantic().numpy() == 2)


def test_a_data_frame_has_a_row_per_object():
    pytest.importorskip("pandas")
    table = both().to_pandas()
    assert [*table.columns] == ["head", "name", "label", "score", "x1", "y1", "x2", "y2"]
    assert table["name"].tolist() == ["dog", "cat", "dog"] and set(table["head"]) == {"things"}
    assert table[["x1", "y1", "x2", "y2"]].values.tolist() == objects()["boxes"].tolist()
    assert two_detectors(0.5).to_pandas()["head"].tolist() == ["cars"] * 2 + ["people"] * 2


@pytest.fixture
def stand_in(monkeypatch):
    """A stand-in for the package: its Detections are its arguments."""
    monkeypatch.setitem(sys.modules, "supervision", SimpleNamespace(Detections=SimpleNamespace))


def test_objects_become_detections(stand_in):
    masks = torch.ones(3, 4, 6, dtype=torch.bool)
    for found in (detection(), both()):
        converted = found.to_supervision()
        assert converted.xyxy.tolist() == objects()["boxes"].tolist() and converted.xyxy.dtype == np.float32
        assert converted.class_id.tolist() == [1, 0, 1] and converted.confidence[0] == np.float32(0.9)
        assert converted.data["class_name"].tolist() == ["dog", "cat", "dog"]
        assert not hasattr(converted, "mask")
    assert detection(masks=masks).to_supervision().mask.all()


def test_a_label_map_becomes_one_region_per_class(stand_in):
    found = both()["all"].to_supervision()
    assert found.class_id.tolist() == [0, 2] and found.data["class_name"].tolist() == ["cat", "sky"]
    assert found.xyxy.tolist() == [[2, 1, 4, 2], [0, 0, 5, 3]]
    assert np.array_equal(found.mask[0], semantic().numpy() == 0) and found.mask.sum() == 24


@pytest.mark.parametrize(
    ("found", "facts"),
    [
        (both()["depth"], "objects, label and panoptic maps; .*only depth"),
        (two_detectors(), r"cars and people .*result\['cars'\]"),
        (detection(), "pip install supervision"),
    ],
)
def test_results_without_objects_and_missing_packages_are_refused(found, facts, stand_in, uninstalled):
    if "install" in facts:
        uninstalled("supervision")
    with pytest.raises(DensevitError, match=facts):
        found.to_supervision()


def test_panoptic_maps_become_detections():
    supervision = pytest.importorskip("supervision")
    ids = torch.full((6, 8), -1, dtype=torch.int32)
    ids[:3, :4], ids[3:, 2:5] = 1000, 2001
    classes = [Class(name, i, (0, 0, 0)) for i, name in enumerate(("sky", "road", "car"))]
    image = np.zeros((6, 8, 3), np.uint8)
    found = densevit.Result(image, (6, 8), {"x": {"panoptic": ids}}, {"x": classes}).to_supervision()
    assert isinstance(found, supervision.Detections) and found.class_id.tolist() == [1, 2]
    assert found.xyxy.tolist() == [[0, 0, 3, 2], [2, 3, 4, 5]] and found.mask.sum((1, 2)).tolist() == [12, 9]
