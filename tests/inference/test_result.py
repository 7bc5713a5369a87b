"""Results: one type for one head and several."""

import copy
import io
import json
import pickle
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools import mask

from densevit.drawing.draw import draw
from densevit.errors import DensevitError
from densevit.inference.result import Result
from densevit.interfaces import Class

THINGS = (Class("cat", 17, (255, 0, 0)), Class("dog", 18, (0, 255, 0)))
ALL = (*THINGS, Class("sky", 3, (0, 0, 255), thing=False))
IMAGE = np.random.default_rng(0).integers(0, 256, (4, 6, 3), dtype=np.uint8)


def objects(**others: torch.Tensor) -> dict[str, torch.Tensor]:
    return {
        "boxes": torch.tensor([[0.0, 0, 2, 2], [1, 1, 5, 3], [0, 0, 6, 4]]),
        "scores": torch.tensor([0.9, 0.5, 0.125]),
        "labels": torch.tensor([1, 0, 1]),
        **others,
    }


def semantic() -> torch.Tensor:
    labels = torch.full((4, 6), 2, dtype=torch.uint8)
    labels[1:3, 2:5] = 0
    return labels


def detection(**others: torch.Tensor) -> Result:
    return Result(IMAGE, (4, 6), {"boxes": objects(**others)}, {"boxes": THINGS})


def both() -> Result:
    found = {"things": objects(), "all": {"semantic": semantic()}, "depth": {"depth": torch.ones(4, 6)}}
    return Result(IMAGE, (4, 6), found, {"things": THINGS, "all": ALL, "depth": ()})


def two_detectors(threshold: float | None = None) -> Result:
    classes = {"cars": THINGS, "people": THINGS}
    return Result(IMAGE, (4, 6), {"cars": objects(), "people": objects()}, classes, threshold)


def test_predictions_are_attributes_and_a_mapping_of_one_head_or_of_the_results_of_several():
    one, several = detection(), both()
    for found in (one, several, copy.deepcopy(several), pickle.loads(pickle.dumps(several))):
        assert found.boxes.shape == (3, 4) and found.scores[0] == 0.9 and found.labels.tolist() == [1, 0, 1]
        assert found.names == ["dog", "cat", "dog"] and np.array_equal(found.image, IMAGE)
        assert not hasattr(found, "masks") and "masks" not in dir(found)
        assert {"boxes", "names", "draw", "to_json"} <= {*dir(found)}
    assert [*one] == ["boxes", "scores", "labels"] and "depth" not in one and one.maps == {}
    assert torch.equal(one["boxes"], one.heads["boxes"]["boxes"])
    assert [*several] == ["things", "all", "depth"] and several.heads.keys() == {"things", "all", "depth"}
    assert isinstance(several["all"], Result) and torch.equal(several["depth"]["depth"], several.depth)
    assert [*several.maps] == ["semantic", "depth"] and torch.equal(several.maps["semantic"], semantic())


def test_objects_are_counted_and_filtered():
    one = detection(masks=torch.arange(3)[:, None, None].expand(3, 4, 6) > 0)
    assert one.counts() == {"dog": 2, "cat": 1}
    dogs = one.filter(classes=["dog"])
    assert (
        dogs.counts() == {"dog": 2}
        and dogs.scores.tolist() == one.scores[[0, 2]].tolist()
        and dogs.masks.shape == (2, 4, 6)
    )
    assert dogs.masks.flatten(1).all(1).tolist() == [False, True] and dogs.boxes[1].tolist() == [0, 0, 6, 4]
    assert one.filter(score=0.5).labels.tolist() == [1, 0] and len(one.scores) == 3
    assert one.filter({"cat"}, 0.6).counts() == {} and one.filter(classes=[]).boxes.shape == (0, 4)
    several = both().filter(score=0.5)
    assert several["things"].counts() == {"dog": 1, "cat": 1} and torch.equal(several.semantic, semantic())
    assert two_detectors().filter(["cat"])["people"].counts() == {"cat": 1}
    with pytest.raises(DensevitError, match=r"filter: 'dgo' is not a class .* Did you mean 'dog'\? Known: cat, dog\."):
        one.filter(classes=["dgo"])
    with pytest.raises(AttributeError, match="cars and people"):
        two_detectors().counts()


def test_a_missing_or_ambiguous_prediction_is_an_error_that_lists_them():
    two = two_detectors()
    for found, name, facts in (
        (detection(), "masks", "masks.* boxes: boxes, scores"),
        (two, "boxes", r"cars and people.*result\['cars'\]\.boxes"),
        (two, "names", "labels .*cars and people"),
    ):
        with pytest.raises(AttributeError, match=facts):
            getattr(found, name)
    assert two["people"].names == ["dog", "cat", "dog"]


def test_a_threshold_leaves_out_objects_and_keeps_maps():
    masks = torch.arange(3)[:, None, None].expand(3, 4, 6) > 0
    found = Result(IMAGE, (4, 6), {"a": objects(masks=masks, semantic=semantic())}, {"a": ALL}, threshold=0.5)
    assert found.names == ["dog", "cat"] and found.masks.shape == (2, 4, 6) and found.masks[1].all()
    assert torch.equal(found.semantic, semantic())


def test_the_drawing_is_that_of_draw_and_of_several_heads_side_by_side():
    for threshold, expected in ((None, 0.5), (0.6, 0.6), (0.0, 0.0)):
        assert np.array_equal(np.asarray(detection().draw(threshold)), draw(IMAGE, objects(), THINGS, expected))
    ids = torch.where(semantic() == 2, 2000, -1).int()
    panoptic = Result(IMAGE, (4, 6), {"all": {"panoptic": ids, "semantic": semantic()} | objects()}, {"all": ALL})
    assert [*panoptic.maps] == ["panoptic", "semantic"]
    assert np.array_equal(np.asarray(panoptic.draw()), draw(IMAGE, {"panoptic": ids}, ALL))
    drawn, left = np.asarray(both().draw()), 0
    for head, classes in (("things", THINGS), ("all", ALL), ("depth", ())):
        own = draw(IMAGE, dict(both()[head]), classes)
        assert np.array_equal(drawn[: own.shape[0], left : left + own.shape[1]], own)
        left += own.shape[1]
    assert drawn.shape[1] == left
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(both()._repr_png_()))), drawn)  # in a notebook


# ---- files and windows ----


def test_save_writes_the_drawing(tmp_path: Path):
    detection().save(tmp_path / "drawn.PNG", 0.6)
    assert np.array_equal(np.asarray(Image.open(tmp_path / "drawn.PNG")), np.asarray(detection().draw(0.6)))
    for path, message in (
        (tmp_path / "drawn.txt", "drawn.txt: .*'.txt'.*Fix: "),
        (tmp_path / "missing" / "drawn.png", "drawn.png: .*No such file"),
    ):
        with pytest.raises(DensevitError, match=message):
            detection().save(path)


def test_show_without_a_window_names_save(monkeypatch):
    monkeypatch.setattr(sys, "platform", "linux")
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(DensevitError, match=r"no window .* result.save\('drawn.png'\)"):
        detection().show()


# ---- JSON and tables ----


def decoded(code: dict) -> np.ndarray:
    return mask.decode({"size": code["size"], "counts": code["counts"].encode()}).astype(bool)


def test_json_has_the_objects_of_each_head():
    masks = torch.zeros(3, 4, 6, dtype=torch.bool)
    masks[1, 1:3, 2:5] = True
    found = json.loads(detection(masks=masks).to_json())
    assert (found["height"], found["width"]) == (4, 6) and [*found["heads"]] == ["boxes"]
    first, second, _ = found["heads"]["boxes"]["objects"]
    assert (first["name"], first["label"], first["box"]) == ("dog", 1, [0, 0, 2, 2])
    assert first["score"] == pytest.approx(0.9) and second["name"] == "cat"
    assert np.array_equal(decoded(second["mask"]), masks[1].numpy())


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


# ---- supervision ----


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


def test_results_without_objects_and_missing_packages_are_refused(stand_in, monkeypatch):
    depth = both()["depth"]
    for convert, facts in (
        (depth.to_supervision, "objects, label and panoptic maps; .*only depth"),
        (two_detectors().to_supervision, r"cars and people .*result\['cars'\]"),
    ):
        with pytest.raises(DensevitError, match=facts):
            convert()
    monkeypatch.setitem(sys.modules, "supervision", None)
    with pytest.raises(DensevitError, match="pip install supervision"):
        detection().to_supervision()
