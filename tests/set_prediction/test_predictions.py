"""Predictions of detection heads, from outputs and from exported files, by hand."""

from typing import Any

import pytest
import torch

from densevit.set_prediction.predictions import (
    class_scores,
    exported_predictions,
    top_exported,
    top_predictions,
    top_scores,
)

TARGETS = [
    {"size": (40, 80), "original_size": (100, 200)},  # h, w
    {"size": (32, 16), "original_size": (300, 50)},
]
BOXES = torch.tensor([[0.5, 0.5, 0.5, 0.25], [0.25, 0.75, 0.1, 0.2], [0.9, 0.1, 0.4, 0.4]])
IN_FILES = [  # the last is cut off at the image's edge
    [[50, 37.5, 150, 62.5], [40, 65, 60, 85], [140, 0, 200, 30]],
    [[12.5, 112.5, 37.5, 187.5], [10, 195, 15, 255], [35, 0, 50, 90]],
]


@pytest.mark.parametrize(
    ("softmax", "probabilities", "scores", "labels", "queries"),
    [
        (
            True,  # the last class is "no object", which is never a prediction
            [[[0.2, 0.1, 0.7], [0.1, 0.8, 0.1], [0.3, 0.4, 0.3]], [[0.6, 0.3, 0.1], [0.2, 0.3, 0.5], [0.0, 0.9, 0.1]]],
            [[0.8, 0.4, 0.2], [0.9, 0.6, 0.3]], [[1, 1, 0], [1, 0, 1]], [[1, 2, 0], [2, 0, 1]],
        ),
        (
            False,  # a query as two classes, another not at all
            [[[0.9, 0.8], [0.1, 0.7], [0.2, 0.3]]] * 2,
            [[0.9, 0.8, 0.7]] * 2, [[0, 1, 1]] * 2, [[0, 0, 1]] * 2,
        ),
    ],
)  # fmt: skip
def test_predictions_are_the_best_pairs_or_with_softmax_each_querys_best_class(
    softmax: bool, probabilities: Any, scores: list[list[float]], labels: list[list[int]], queries: list[list[int]]
):
    logits = torch.tensor(probabilities).log() if softmax else torch.tensor(probabilities).logit()
    assert top_scores(class_scores(logits, softmax), softmax)[2].tolist() == queries
    outputs = {"logits": logits, "boxes": BOXES.expand(2, 3, 4)}
    predicted = top_predictions(outputs, TARGETS, softmax)
    for i, target in enumerate(TARGETS):
        exported = exported_predictions({name: x[i : i + 1] for name, x in outputs.items()}, target["size"], softmax)
        for result in (predicted[i], *top_exported(exported, [target], softmax)):
            assert result["scores"].tolist() == pytest.approx(scores[i]) and result["labels"].tolist() == labels[i]
            expected = torch.tensor([IN_FILES[i][query] for query in queries[i]])
            torch.testing.assert_close(result["boxes"], expected, atol=1e-3, rtol=0)
