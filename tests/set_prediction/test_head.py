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


@pytest.fixture
def head() -> SetPredictionHead:
    head = SetPredictionHead((8,), (8,), CLASSES, num_queries=3)
    head.criterion = SimpleNamespace(loss_counts=lambda counts: counts, losses=lambda *arguments: arguments)  # type: ignore[assignment]
    return head


def test_losses_and_counts_are_the_criterions_and_more_objects_than_queries_are_reported(head: SetPredictionHead):
    boxes = {"a": 3, "b": 1, "c": 5}
    targets: list[dict[str, Any]] = [
        {"image_id": name, "boxes": torch.zeros(n, 4), "labels": torch.zeros(n)} for name, n in boxes.items()
    ]
    del targets[1]["labels"]
    assert head.loss_counts(targets) == [3, 5]
    with pytest.warns(UserWarning, match="image 'c' has 5 objects, but num_queries is 3: .* no image .* more than 3"):
        assert head.loss({}, targets, context := LossContext()) == ({}, targets, context)
    head = SetPredictionHead((8,), (8,), CLASSES, num_queries=3)
    with pytest.warns(UserWarning, match="2 of 3 training images .* 5 objects, but num_queries is 3"):
        head.check(SimpleNamespace(object_counts=lambda: np.array([4, 5, 0])))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("softmax", "probabilities", "scores"),
    [
        (False, [[0.75, 0.5], [0.25, 0.2], [0.0, 0.0]], [0.75, 0.5, 0.25]),
        (True, [[0.5, 0.2, 0.3], [0.1, 0.1, 0.8], [0.0, 0.2, 0.8]], [0.5, 0.2, 0.1]),
    ],
)
def test_predictions_are_of_sigmoids_or_of_softmax(head: Any, softmax: bool, probabilities: list, scores: list[float]):
    x, head.softmax = torch.tensor([probabilities]), softmax
    outputs = {"logits": x.log() if softmax else x.logit(), "boxes": torch.tensor([[[0.5, 0.5, 0.5, 1.0]] * 3])}
    targets = [{"size": (10, 20), "original_size": (20, 80)}]
    [predicted], [read] = (
        head.predict(outputs, targets),
        head.predict_exported(head.exported(outputs, (10, 20)), targets),
    )
    assert predicted["scores"].tolist() == read["scores"].tolist() == pytest.approx(scores)
    assert predicted["boxes"].tolist() == read["boxes"].tolist() == [[20, 0, 60, 20]] * 3
    assert head.exported(outputs, (10, 20), (20, 80))["boxes"][0, 0].tolist() == [20, 0, 60, 20]
