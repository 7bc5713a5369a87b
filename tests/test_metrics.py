"""densevit.metrics in an own loop, against the evaluation of the same predictions."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

import densevit
from densevit import metrics, registry
from densevit.interfaces import Evaluator
from tests.evaluation.test_laws import CLASSES, image

NAMES = [c.name for c in CLASSES]
MADE: dict[str, Callable[[], Evaluator]] = {
    "classification": lambda: metrics.Classification(NAMES),
    "detection": lambda: metrics.CocoDetection(NAMES),
    "coco_masks": lambda: metrics.CocoMasks(NAMES, boundary=True),
    "depth": lambda: metrics.DepthErrors(()),
    "panoptic": lambda: metrics.Panoptic(CLASSES, masks=False),
    "segmentation": lambda: metrics.SemanticSegmentation(NAMES, boundary=True),
}


def listed(values: dict[str, Any]) -> dict[str, Any]:
    """Boxes, scores and labels as lists, as they come from JSON; maps and masks stay."""
    rows = ("boxes", "scores", "labels", "area", "iscrowd")
    return {key: value.tolist() if key in rows else value for key, value in values.items()}


def test_the_module_has_the_evaluators_of_all_tasks() -> None:
    assert {type(make()) for make in MADE.values()} == {getattr(metrics, name) for name in metrics.__all__}
    spine = {name for name, kind in registry.find("evaluators").items() if kind.value.startswith("densevit.evaluation")}
    assert MADE.keys() == spine - {"knn", "linear_probe"}


@pytest.mark.parametrize("name", MADE)
def test_lists_tensors_and_images_without_ids_give_what_evaluation_computes(name: str) -> None:
    images = [image(index) for index in range(5)]
    expected, made = (
        registry.create("evaluators", name, CLASSES, options=OPTIONS.get(name, {}), where=name),
        MADE[name](),
    )
    expected.update(*zip(*images, strict=True))
    for prediction, truth in images:
        truth = {key: value for key, value in truth.items() if key != "image_id"}
        made.update([listed(prediction)], [listed(truth)])
    assert str(made.metrics()) == str(expected.metrics()) and len(made.ids) == 5
    assert any(0 < value < 1 for value in made.metrics().values())


OPTIONS = {"panoptic": {"masks": False}, "segmentation": {"boundary": True}, "coco_masks": {"boundary": True}}


@pytest.mark.parametrize(("name", "key"), [("segmentation", "semantic"), ("depth", "depth")])
def test_maps_are_given_as_tensors(name: str, key: str) -> None:
    images, dicts, maps = [image(index) for index in range(4)], MADE[name](), MADE[name]()
    dicts.update(*zip(*images, strict=True))
    for part in (images[:3], images[3:]):
        maps.update(*(torch.stack([side[key] for side in sides]) for sides in zip(*part, strict=True)))
    assert str(maps.metrics()) == str(dicts.metrics())
    with pytest.raises(densevit.DataError, match="a Tensor is given for an image; a dict with boxes, scores, labels"):
        metrics.CocoDetection(2).update(torch.zeros(1, 3, 4), [{}])
