"""Columns of objects as lines of COCO's results format."""

import json
from typing import Any

import numpy as np
import pytest

from densevit_batch.prediction_columns import json_lines

RNG = np.random.default_rng(0)
FLOATS = {
    "pixels": RNG.random((400, 4), np.float32) * 1000,
    "every magnitude": RNG.standard_normal((400, 4)) * 10.0 ** RNG.integers(-300, 300, (400, 4)),
    "around the smallest": RNG.random((400, 4)) * 2e-4,
    "around the largest": RNG.random((400, 4)) * 2e15,
    "whole, zero and not finite": np.array([[0.0, -0.0, 3.0, 1e22], [np.nan, np.inf, -np.inf, 5e-324]]),
    "zeros": np.zeros((3, 4)),
    "no object": np.zeros((0, 4)),
}


@pytest.mark.parametrize("name", FLOATS)
def test_lines_are_those_of_json_object_by_object(name: str) -> None:
    boxes = FLOATS[name].astype(np.float64)
    columns: dict[str, Any] = {"bbox": boxes, "score": boxes[:, 0], "category_id": np.arange(len(boxes))}
    columns["codes"] = [{"counts": f"{n}, %s"} for n in range(len(boxes))]
    rows = zip(*(values.tolist() if name != "codes" else values for name, values in columns.items()), strict=True)
    entries = [{"image_id": '100 %, "a"', **dict(zip(columns, row, strict=True))} for row in rows]
    assert json_lines('100 %, "a"', columns) == ",\n".join(map(json.dumps, entries))
