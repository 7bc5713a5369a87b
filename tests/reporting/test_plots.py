"""Plots as SVG: lines and matrices, by the elements of the drawing."""

import base64
import inspect
import io
import math
import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Mapping, Sequence

import numpy as np
import pytest
from PIL import Image

from densevit.interfaces import Plot
from densevit.reporting import plots
from densevit.reporting.plots import BOTTOM, HEIGHT, LEFT, RIGHT, TOP, WIDTH

HOSTILE = "$<script>alert(1)</script>_{日本}&amp;"


def paths(svg: str, color: str) -> list[list[tuple[float, float]]]:
    """The points of the lines of a colour."""
    style = f"stroke: var(--{color}); stroke-w"
    found = [path for path in ElementTree.fromstring(svg).iter() if style in path.get("style", "")]
    return [[(float(x), float(y)) for x, y in re.findall(r"[ML] (\S+) (\S+)", path.get("d"))] for path in found]


def texts(svg: str) -> list[str]:
    return [element.text for element in ElementTree.fromstring(svg).iter() if element.tag.endswith("text")]


def test_axes_point_up_and_right_and_unit_axes_fill_the_frame():
    [[(x1, y1), (x2, y2), (x3, y3)]] = paths(plots.lines({"AP": [(0, 0.0), (10, 0.5), (20, 1.0)]}), "c0")
    assert x2 - x1 == pytest.approx(x3 - x2, abs=0.2) and x2 > x1
    assert y1 - y2 == pytest.approx(y2 - y3, abs=0.2) and y2 < y1
    svg = plots.lines({"a": [(0, 1), (1, 0.5)]}, unit_axes=True)
    assert paths(svg, "c0") == [[(LEFT, TOP), (WIDTH - RIGHT, TOP + (HEIGHT - TOP - BOTTOM) / 2)]]
    labels = texts(plots.lines({"AP": [(1000, 0.0001), (2000, 0.0005)]}))
    assert "0.0002" in labels and len({*labels}) == len(labels) >= 8


@pytest.mark.parametrize("name", [HOSTILE, "#2463c9", 'a id="b"', "_"])
def test_names_that_look_like_svg_are_shown_as_they_are(name: str):
    assert texts(plots.heat_map([name[:20], "b"], np.eye(2))).count(name[:20]) == 2
    if name == HOSTILE:
        svg = plots.lines({"a": [(0, 1), (1, 2)]}, x=name, y=name)
        assert texts(svg).count(name) == 2 and "<script" not in svg
    else:
        assert name in texts(plots.svg_file("title", Plot("x", "y", {name: [(0, 1), (1, 2)]})))


def test_cells_of_a_matrix_are_blue_or_red_by_share():
    assert texts(plots.heat_map(["a", "b"], np.array([[0.99999, 0.00001], [0, 1]])))[-3:] == [">99", "<1", "100"]
    svg = plots.heat_map(["a", "b"], np.array([[0.75, 0.25], [0.0, 1.0]]))
    with Image.open(io.BytesIO(base64.b64decode(re.search(r'base64,([^"]*)', svg)[1]))) as image:
        pixels = np.asarray(image.convert("RGBA"))
    found = pixels[:: len(pixels) - 1, :: len(pixels) - 1]  # the corners
    assert found[0, 0].tolist() == [36, 99, 201, 191] and found[0, 1].tolist() == [196, 48, 40, 127]
    assert found[1, 0, 3] == 0 and found[1, 1].tolist() == [36, 99, 201, 255]


def test_a_plot_is_an_svg_file_of_its_own():
    curves = {"cat & <dog>": [(0, 1), (1, 0.5)], "_fox": [(0, 0.2)], "empty": []}
    svg = plots.svg_file("precision-recall", Plot("recall", "precision", curves, unit_axes=True))
    found = texts(svg)
    assert {"precision-recall", "recall", "precision", "cat & <dog>", "_fox"} <= {*found} and "empty" not in found
    assert "var(" not in svg and "prefers-color-scheme: dark" in svg  # other viewers than browsers know no variables


VALUES = {
    "none": [],
    "one": [3.0],
    "constant": [2.5] * 9,
    "equal but for rounding": [33.3 + 7e-15 * i for i in range(9)],
    "large and equal but for rounding": [1e17, 1e17, 1e17 + 16],
    "denormal": [5e-324, 1e-323],
    "NaN": [math.nan] * 3,
    "NaN and infinity": [1.0, math.nan, math.inf, -math.inf, 2.0],
    "a span of 10^9": [1e-3, 1.0, 1e6],
    "a span of 10^300": [-1e300, 1e300],
}


@pytest.mark.parametrize("values", VALUES.values(), ids=VALUES)
@pytest.mark.filterwarnings("error")
def test_any_values_are_plotted(values: list[float]) -> None:
    """Each public function that returns an SVG, with arguments by their types."""
    curve = list(enumerate(values))
    arguments = {
        Mapping[str, plots.Points]: {"a": curve, "b": [(value, 1.0) for value in values]},
        Sequence[str]: [f"class {n}" for n in range(len(values) + 1)],
        np.ndarray: np.diag([1.0, *np.clip(values, 0, 1)]),
        Plot: Plot("x", "y", {"a": curve}),
        str: "title",
    }
    drawn = 0
    for name, function in inspect.getmembers(plots, inspect.isfunction):
        required = [p for p in inspect.signature(function).parameters.values() if p.default is p.empty]
        is_public = not name.startswith("_") and function.__module__ == plots.__name__
        if not is_public or any(p.annotation not in arguments for p in required):
            continue
        svg = function(*(arguments[p.annotation] for p in required))
        coordinates = [element.get("d", "") for element in ElementTree.fromstring(svg).iter()]
        assert not re.search("nan|inf", " ".join(coordinates))
        drawn += 1
    assert drawn >= 3
