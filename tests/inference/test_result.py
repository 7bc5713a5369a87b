"""Results: one type for one head and several."""

import copy
import io
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

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


def both(threshold: float | None = None) -> Result:
    found = {"things": objects(), "all": {"semantic": semantic()}, "depth": {"depth": torch.ones(4, 6)}}
    return Result(IMAGE, (4, 6), found, {"things": THINGS, "all": ALL, "depth": ()}, threshold)


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
    assert dogs.counts() == {"dog": 2} and torch.equal(dogs.scores, one.scores[[0, 2]])
    assert torch.equal(dogs.masks, one.masks[[0, 2]]) and dogs.boxes[1].tolist() == [0, 0, 6, 4]
    assert one.filter(score=0.5).labels.tolist() == [1, 0] and len(one.scores) == 3
    assert one.filter({"cat"}, 0.6).counts() == {} and one.filter(classes=[]).boxes.shape == (0, 4)
    for several in (both().filter(score=0.5), both(threshold=0.5)):
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


def test_the_drawing_is_that_of_draw_and_of_several_heads_side_by_side():
    for threshold, expected in ((None, 0.5), (0.6, 0.6), (0.0, 0.0)):
        assert np.array_equal(np.asarray(detection().draw(threshold)), draw(IMAGE, objects(), THINGS, expected))
    ids = torch.where(semantic() == 2, 2000, -1).int()
    panoptic = Result(IMAGE, (4, 6), {"all": {"panoptic": ids, "semantic": semantic()} | objects()}, {"all": ALL})
    assert np.array_equal(np.asarray(panoptic.draw()), draw(IMAGE, {"panoptic": ids}, ALL))
    drawn, left = np.asarray(both().draw()), 0
    for head, classes in (("things", THINGS), ("all", ALL), ("depth", ())):
        own = draw(IMAGE, dict(both()[head]), classes)
        assert np.array_equal(drawn[: own.shape[0], left : left + own.shape[1]], own)
        left += own.shape[1]
    assert drawn.shape[1] == left
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(both()._repr_png_()))), drawn)  # in a notebook


def test_save_writes_the_drawing(tmp_path: Path):
    detection().save(tmp_path / "drawn.PNG", 0.6)
    assert np.array_equal(np.asarray(Image.open(tmp_path / "drawn.PNG")), np.asarray(detection().draw(0.6)))
    for path, message in (
        (tmp_path / "drawn.txt", "drawn.txt: .*'.txt'.*Fix: "),
        (tmp_path / "missing" / "drawn.png", "drawn.png: .*No such file"),
    ):
        with pytest.raises(DensevitError, match=message):
            detection().save(path)
