import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

from densevit.visualization.curves import HEIGHT, LEFT, WIDTH, curve_svg, downsampled, read_curves, ticks


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
