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
    head.criterion = SimpleNamespace(loss_counts=list, losses=lambda *arguments: arguments)
    targets: list[Any] = [{"image_id": n, "boxes": torch.zeros(n, 4), "labels": torch.zeros(n)} for n in (3, 1, 5)]
    del targets[1]["labels"]
    assert head.loss_counts(targets) == [3, 5]
    with pytest.warns(UserWarning, match="image 5 has 5 objects, but num_queries is 3: .* no image .* more than 3"):
        assert head.loss({}, targets, context := LossContext()) == ({}, targets, context)
    with pytest.warns(UserWarning, match="2 of 3 training images .* 5 objects, but num_queries is 3"):
        other.check(SimpleNamespace(object_counts=lambda: np.array([4, 5, 0])))
