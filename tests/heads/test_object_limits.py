"""Images with more objects than a head predicts, for every registered head of objects or segments."""

import inspect
from typing import Any

import numpy as np
import pytest
import torch

import densevit
from densevit import registry
from densevit.interfaces import Dataset
from densevit.model import DenseModel
from densevit.targets.types import TargetTypes
from densevit_workbench.testing.targets import random_targets
from tests.heads.cases import CASES, batch_of
from tests.heads.test_num_queries import counts_queries, with_queries
from tests.small_models import FOUR_MAPS

pytestmark = pytest.mark.integration

OBJECTS, SIZE = 9, (64, 64)
FIRST = {case.head: case for case in reversed(CASES.values())}
HEADS = [
    name
    for name in densevit.list_plugins("heads")
    if not {"boxes", "labels", "panoptic"}.isdisjoint(registry.load("heads", name).required_targets)
]


def model_of(name: str, **limits: int) -> DenseModel:
    """The model of a head. limits: options; `num_queries` may be an option of a nested detector."""
    options = with_queries(FIRST[name].options, limits.pop("num_queries", 30))
    head: Any = {"name": name, **options, **limits}
    vit = {"name": "vit", "variant": "nano", "image_size": 64}
    backbone: Any = vit if name.startswith(("eomt", "pmt")) else FOUR_MAPS
    return densevit.create_model(backbone, heads={"objects": head}, classes=[*"abcd"])


def limits_of(name: str) -> dict[str, int]:
    """Each option that limits the objects of an image, with a value below their number."""
    kind = registry.load("heads", name)
    options = dict.fromkeys(kind.object_limits, OBJECTS - 2)
    named = {option: x for option, x in options.items() if option in inspect.signature(kind).parameters}
    return named or {"num_queries": OBJECTS - 2}


def crowded(model: DenseModel) -> dict[str, Any]:
    """A batch whose second image has nine objects, and the first one fewer."""
    head = model.heads["objects"]
    batch = batch_of(head.required_targets, [SIZE, SIZE])
    generator = torch.Generator().manual_seed(0)
    targets = random_targets(head.required_targets, SIZE, 1, generator, OBJECTS, 7, types=TargetTypes())
    if "panoptic" in targets:  # stripes, each a segment
        targets["panoptic"] = torch.arange(SIZE[0]).div(SIZE[0] // OBJECTS, rounding_mode="floor").clamp(max=8)
        targets["panoptic"] = targets["panoptic"][:, None].repeat(1, SIZE[1])
    return {**batch, "targets": [batch["targets"][0], targets]}


@pytest.mark.parametrize(("name", "option"), [(name, option) for name in HEADS for option in limits_of(name)])
def test_images_with_more_objects_than_the_head_predicts_are_reported(name: str, option: str):
    model = model_of(name, **{option: OBJECTS - 2})
    words = f"has 9 (objects|segments), but {option} is 7: 2 of them cannot be predicted. Fix: set {option} to"
    with pytest.warns(UserWarning, match=f"^image 7 {words}"):
        model.loss(crowded(model))
    dataset = Dataset()
    dataset.object_counts = lambda: np.array([3, OBJECTS])  # type: ignore[method-assign]
    with pytest.warns(UserWarning, match=f"^1 of 2 training images .* {words}"):
        model_of(name, **{option: OBJECTS - 2}).heads["objects"].check(dataset)


@pytest.mark.parametrize("name", [name for name in HEADS if counts_queries(registry.load("heads", name))])
def test_as_many_objects_are_predicted_as_there_are_queries(name: str):
    model = model_of(name, num_queries=130).eval()
    [result] = model.predict([torch.zeros(3, 192, 192, dtype=torch.uint8)], threshold=0)
    assert len(result.scores) == 130
