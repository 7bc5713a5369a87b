"""Plots of distributions, of any values."""

import math
import re

import pytest

from densevit_workbench.reports.distribution_plots import histogram, point_columns


@pytest.mark.parametrize(
    "values",
    [
        [],
        [3.0],
        [2.5] * 9,
        [33.3 + 7e-15 * i for i in range(9)],
        [1e17, 1e17, 1e17 + 16],
        [5e-324, 1e-323],
        [math.nan] * 3,
        [1.0, math.nan, math.inf, -math.inf, 2.0],
        [1e-3, 1.0, 1e6],
        [-1e300, 1e300],
    ],
    ids=repr,
)
@pytest.mark.filterwarnings("error")
def test_any_values_are_plotted(values: list[float]) -> None:
    for svg in (histogram(values), point_columns([values, []], "layer")):
        assert not re.search("nan|inf", " ".join(re.findall(r' d="([^"]*)"', svg)))
