"""The common part of detection heads, with a criterion that returns its arguments."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from densevit.interfaces import Class
from densevit.losses.context import LossContext
from densevit.set_prediction.head import SetPredictionHead

CLASSES = [Class("a", 0, (0, 0, 0)), Class("b", 1, (0, 0, 0))]


def test_losses_and_counts_are_the_criterions_and_more_objects_than_queries_are_reported():
    head, other = (SetPredictionHead((8,), (8,), CLASSES, num_queries=3) for _ in range(2))
    head.criterion = SimpleNamespace(loss_counts=list, losses=lambda *arguments: arguments)  # type: ignore[assignment]
    targets: list[Any] = [{"image_id": n, "boxes": torch.zeros(n, 4), "labels": torch.zeros(n)} for n in (3, 1, 5)]
    del targets[1]["labels"]
    assert head.loss_counts(targets) == [3, 5]
    with pytest.warns(UserWarning, match="image 5 has 5 objects, but num_queries is 3: .* no image .* more than 3"):
        assert head.loss({}, targets, context := LossContext()) == ({}, targets, context)
    with pytest.warns(UserWarning, match="2 of 3 training images .* 5 objects, but num_queries is 3"):
        other.check(SimpleNamespace(object_counts=lambda: np.array([4, 5, 0])))  # type: ignore[arg-type]


@pytest.mark.parametrize(("softmax", "score"), [(False, 0.75), (True, 0.1)])
def test_predictions_are_of_sigmoids_or_of_softmax(softmax: bool, score: float):
    """Of a query with odds of 1/3 and 3; with softmax the latter are those of "no object": 1/3 of 10/3."""
    head: Any = SetPredictionHead((8,), (8,), CLASSES, num_queries=1)
    head.softmax = softmax
    outputs = {"logits": torch.tensor([[[0.25, 0.75]]]).logit(), "boxes": torch.tensor([[[0.5, 0.5, 0.5, 1.0]]])}
    targets = [{"size": (10, 20), "original_size": (20, 80)}]
    read = head.predict_exported(head.exported(outputs, (10, 20)), targets)
    for [found] in (head.predict(outputs, targets), read):
        assert found["boxes"].tolist() == [[20, 0, 60, 20]] and found["scores"].item() == pytest.approx(score)
    assert head.exported(outputs, (10, 20), (20, 80))["boxes"].tolist() == [[[20, 0, 60, 20]]]
