import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

from densevit.interfaces import Plot
from densevit.visualization.curves import (
    HEIGHT,
    LEFT,
    WIDTH,
    curve_svg,
    downsampled,
    histogram_svg,
    read_curves,
    svg_file,
    ticks,
)


def test_columns_are_plotted_over_steps(tmp_path: Path):
    path = tmp_path / "metrics.csv"
    path.write_text(
        "epoch,step,train/loss,detection/AP,detection/APs\n0,0,4.5,,\n0,50,2.5,,\n0,99,,0.25,nan\n1,150,inf,0.5,\n"
    )
    assert read_curves(path) == {"train/loss": [(0, 4.5), (50, 2.5)], "detection/AP": [(99, 0.25), (150, 0.5)]}


@pytest.mark.parametrize(
    "cut", ["", "step", "step,train/loss", "step,train/loss\n", "step,train/loss\n1,2\n3", "\0\0\n\0"]
)
def test_truncated_file_gives_complete_rows(tmp_path: Path, cut: str):
    path = tmp_path / "metrics.csv"
    path.write_text(cut)
    assert read_curves(path) == ({"train/loss": [(1, 2)]} if "1,2" in cut else {})


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0, 1, [0, 0.5, 1]),
        (0, 0.8, [0, 0.2, 0.4, 0.6, 0.8]),
        (3, 97, [0, 50, 100]),
        (0.31, 0.42, [0.3, 0.35, 0.4, 0.45]),
        (-1, 1, [-1, -0.5, 0, 0.5, 1]),
        (0, 1e-4, [0, 5e-5, 1e-4]),
        (0, 0, [0, 0.5, 1]),
        (10, 10, [9, 9.5, 10, 10.5, 11]),
    ],
)
def test_ticks_are_round_numbers(low: float, high: float, expected: list[float]):
    assert ticks(low, high) == pytest.approx(expected)


def test_many_points_are_averaged_except_for_the_last():
    points = [(float(n), float(n % 2)) for n in range(1000)]
    few = downsampled(points, most=100)
    assert len(few) == 100
    assert few[0] == (4.5, 0.5) and few[-1] == (999, 1)
    assert downsampled(points[:100], most=100) == points[:100]


@pytest.mark.parametrize(
    "points",
    [
        [(5, 1)],
        [(0, 1), (9, 1)],
        [(0, 0), (1, 1), (2, 0.5)],
        [(n, (-1) ** n * 1e-9 * n) for n in range(5000)],
        [(0, 1e30), (1, -1e30)],
    ],
)
def test_curve_is_well_formed_and_inside_its_frame(points: list[tuple[float, float]]):
    svg = ElementTree.fromstring(curve_svg("train/<loss> & more", points))
    assert svg.get("aria-label") == "train/<loss> & more"
    corners = [tuple(map(float, corner.split(","))) for corner in svg.find("polyline").get("points").split()]
    assert len(corners) == min(len(points), len(downsampled(points)))
    assert all(LEFT <= x <= WIDTH and 0 <= y <= HEIGHT for x, y in corners)


def test_axes_point_up_and_right():
    svg = ElementTree.fromstring(curve_svg("AP", [(0, 0.0), (10, 0.5), (20, 1.0)]))
    (x1, y1), (x2, y2), (x3, y3) = (tuple(map(float, c.split(","))) for c in svg.find("polyline").get("points").split())
    assert x2 - x1 == pytest.approx(x3 - x2) and x2 > x1
    assert y1 - y2 == pytest.approx(y2 - y3) and y2 < y1


def test_histogram_has_a_bar_for_each_interval_with_values():
    svg = ElementTree.fromstring(histogram_svg("widths", [0.0] * 30 + [5.0] * 60 + [10.0] * 10, bins=10))
    bars = [one for one in svg.iter("rect")]
    heights = [float(bar.attrib["height"]) for bar in bars]
    assert len(bars) == 3 and heights[1] == pytest.approx(2 * heights[0]) == pytest.approx(6 * heights[2], abs=0.2)
    assert [one.text for one in svg.iter("text") if one.get("class") == "last"] == ["5"], "the median"
    places = [(float(bar.attrib["x"]) - LEFT) / (WIDTH - 12 - LEFT) for bar in bars]
    assert places == pytest.approx([0, 0.5, 0.9], abs=0.01)


@pytest.mark.parametrize("values", [[3.0], [0.0, 0.0], [-2.0, 1e9]])
def test_histogram_of_few_values(values: list[float]):
    ElementTree.fromstring(histogram_svg("x", values))


def test_a_plot_is_an_svg_file_of_its_own():
    plot = Plot("recall", "precision", {"cat & <dog>": [(0, 1), (1, 0.5)], "fox": [(0, 0.2)], "empty": []}, whole=True)
    root = ElementTree.fromstring(svg_file("precision-recall", plot))
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    texts = [element.text for element in root.iter("{http://www.w3.org/2000/svg}text")]
    assert texts[0] == "precision-recall" and texts[-2:] == ["cat & <dog>", "fox"] and "recall" in texts
    lines = [element.get("points") for element in root.iter("{http://www.w3.org/2000/svg}polyline")]
    # Both axes are 0 to 1: 58 to 308 from left to right, 142 to 26 from bottom to top.
    assert lines == ["58.0,26.0 308.0,84.0", "58.0,118.8"]
