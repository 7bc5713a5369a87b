"""An evaluator of two functions, and what it does by itself."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

import densevit
from tests.evaluation.test_laws import CLASSES, image

NAMES = [c.name for c in CLASSES]


class Largest(densevit.Evaluator):
    """The share of images whose largest box has the right label, in two functions."""

    reads = ("boxes", "labels")
    main = "share"

    def record(self, prediction: dict[str, Any], truth: dict[str, Any]) -> bool | None:
        if "labels" not in truth:
            return None
        box = prediction["boxes"]
        largest = ((box[:, 2:] - box[:, :2]).prod(1)).argmax()
        return bool(prediction["labels"][largest] == truth["labels"][largest])

    def compute(self, records: Sequence[bool]) -> dict[str, float]:
        return {"share": float(np.mean(records)) if records else float("nan")}


def test_an_evaluator_of_two_functions_counts_images_once_and_joins_processes() -> None:
    images = [image(index) for index in range(8)]
    for prediction, _ in images[::3]:
        prediction["labels"] = (prediction["labels"] + 1) % 4
    evaluator, parts = Largest(NAMES), [Largest(NAMES), Largest(NAMES)]
    evaluator.update(*zip(*images, *images[:2], strict=True))
    for part, shard in zip(parts, (images[:5], images[4:]), strict=True):
        part.update(*zip(*shard, strict=True))
    parts[0].merge([part.state() for part in parts])
    assert evaluator.metrics() == parts[0].metrics() == {"share": 5 / 8}
    assert evaluator.ids == [*range(8)]
    assert (evaluator.tables(evaluator.records), evaluator.plots(evaluator.records)) == ({}, {})
    evaluator.update([images[0][0]], [{"image_id": 99}])  # without labels
    assert evaluator.metrics() == {"share": 5 / 8}
    with pytest.raises(densevit.DataError, match="image 7: its prediction has no `labels`, only boxes"):
        Largest(NAMES).update([{"boxes": []}], [{"image_id": 7}])
