"""The heads of the three tasks of mask classification: losses, predictions and exported outputs."""

from typing import Any

import pytest
import torch
from torch.nn import functional as F

from densevit.interfaces import Class
from densevit.losses.context import LossContext
from densevit.set_prediction.mask_classification import (
    InstanceMaskClassification,
    PanopticMaskClassification,
    SemanticMaskClassification,
)

CLASSES = [Class(name, i, (i, i, i), thing=name.islower()) for i, name in enumerate(["cat", "dog", "SKY"])]
OPTIONS: Any = ((8,), (4,), CLASSES, 5, 4, 16)  # five queries, masks of stride 4, 16 points


@pytest.fixture
def outputs() -> dict[str, Any]:
    """Of two images in a batch of 16 x 24 pixels."""
    logits, embeddings, pixels = 3 * torch.randn(2, 2, 5, 4), torch.randn(2, 2, 5, 8), torch.randn(2, 8, 4, 6)
    masks = torch.einsum("bqc,bchw->bqhw", embeddings[-1], pixels)
    return {"logits": logits[-1], "masks": masks, "layers": (logits, embeddings), "pixels": pixels}


@pytest.mark.parametrize("original", [(16, 24), (9, 13)])
@pytest.mark.parametrize(
    ("kind", "keys"),
    [
        (PanopticMaskClassification, ["panoptic", "semantic", "masks", "boxes", "labels", "scores"]),
        (InstanceMaskClassification, ["masks", "boxes", "labels", "scores"]),
        (SemanticMaskClassification, ["semantic"]),
    ],
)
def test_exported_outputs_have_the_predictions_of_the_head(kind: Any, keys: list[str], original: Any, outputs: Any):
    head, targets = kind(*OPTIONS), [{"size": (16, 24), "original_size": original}] * 2
    head.threshold = 0.5
    predicted, read = head.predict(outputs, targets), head.predict_exported(head.exported(outputs, (16, 24)), targets)
    torch.testing.assert_close(read, predicted)
    assert [list(row) for row in predicted] == [keys] * 2
    assert kind is SemanticMaskClassification or any(2 in row["labels"] for row in predicted) == (
        kind is InstanceMaskClassification
    )  # stuff


def test_semantic_maps_are_sums_over_queries(outputs: Any):
    head, targets = SemanticMaskClassification(*OPTIONS), [{"size": (10, 7), "original_size": (10, 7)}] * 2
    masks = F.interpolate(outputs["masks"], (16, 24), mode="bilinear").sigmoid()
    scores = torch.einsum("bqk,bqhw->bkhw", outputs["logits"].softmax(-1)[..., :-1], masks)
    torch.testing.assert_close(head.maps(outputs, (16, 24)), scores)
    torch.testing.assert_close(head.maps(outputs, (10, 7)), scores[..., :10, :7])
    torch.testing.assert_close(head.exported(outputs, (16, 24))["maps"], scores)
    result = [head.read_maps(scores)["semantic"], head.exported(outputs, (16, 24))["semantic"]]
    assert all(torch.equal(x, scores.argmax(1)) for x in result)
    assert torch.equal(head.predict(outputs, targets)[1]["semantic"], scores[1, :, :10, :7].argmax(0))


def test_points_of_the_losses_are_random_in_training_only(outputs: Any):
    head = SemanticMaskClassification(*OPTIONS, semantic_loss=2.0)
    targets = [{"semantic": torch.randint(3, (16, 24), dtype=torch.uint8), "size": (16, 24)}] * 2
    trained, evaluated = (
        [head.train(mode).loss(outputs, targets, LossContext()) for _ in range(2)] for mode in (True, False)
    )
    assert list(trained[0]) == ["label", "mask", "dice", "auxiliary", "semantic"]
    assert head.loss_counts(targets)["objects"] == 6 and trained[0]["mask"] != trained[1]["mask"]
    assert evaluated[0] == evaluated[1] and evaluated[0]["semantic"] == 0
    assert head.loss({**outputs, "cells": torch.randn(2, 3, 4, 6)}, targets, LossContext())["semantic"] > 0
