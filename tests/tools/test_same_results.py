"""tools/same_results.py: a difference of a weight, a text or the shape is named."""

import importlib

import numpy as np
import pytest


@pytest.mark.parametrize(
    ("after", "said"),
    [
        ({"x": np.ones(3, np.float32), "t": "loss 0.5"}, ""),
        ({"x": np.float32([1, 1, 1.25]), "t": "loss 0.5"}, "1 of 2 parts, most x: by 0.25"),
        ({"x": np.ones(3, np.float64), "t": "loss 0.75"}, "2 of 2 parts, most t: by 0.25"),
        ({"x": np.ones(3, np.float32), "t": "cost 0.5"}, "1 of 2 parts, as t: loss 0.5 | cost 0.5"),
        ({"x": np.ones((1, 3), np.float32), "t": "loss 0.5"}, "1 of 2 parts, as x: [1. 1. 1.] | [[1. 1. 1.]]"),
        ({"t": "loss 0.5"}, "only in one: x"),
    ],
)
def test_difference_names_the_part_that_differs_most(after, said):
    differences = importlib.import_module("tools.result_differences")
    before = {"x": np.ones(3, np.float32), "t": "loss 0.5"}
    assert differences.difference(before, after) == said
    assert (differences.digest(before) == differences.digest(after)) == (not said)
