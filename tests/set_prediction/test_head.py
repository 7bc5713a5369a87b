"""The common part of detection heads, with a criterion that returns its arguments."""

from types import SimpleNamespace
from typing import Any

import torch

from densevit.interfaces import Class
from densevit.losses.context import LossContext
from densevit.set_prediction.head import SetPredictionHead

CLASSES = [Class("a", 0, (0, 0, 0)), Class("b", 1, (0, 0, 0))]


def test_losses_and_counts_are_the_criterions():
    head = SetPredictionHead((8,), (8,), CLASSES, num_queries=3)
    head.criterion = SimpleNamespace(loss_counts=list, losses=lambda *arguments: arguments)
    targets: list[Any] = [{"image_id": n, "boxes": torch.zeros(n, 4), "labels": torch.zeros(n)} for n in (3, 1, 5)]
    del targets[1]["labels"]
    assert head.loss_counts(targets) == [3, 5]
    assert head.loss({}, targets, context := LossContext()) == ({}, targets, context)
