import re
import xml.etree.ElementTree as ET

from densevit_workbench.scatter import BOTTOM, HEIGHT, LEFT, RIGHT, TOP, WIDTH, Panel, log_ticks, scatter_svg

SVG = "{http://www.w3.org/2000/svg}"


def test_ticks_of_a_logarithmic_axis_are_1_2_and_5():
    assert log_ticks(0.3, 20) == [0.5, 1, 2, 5, 10, 20]
    assert [round(tick, 6) for tick in log_ticks(3.1, 4.1)] == [3.5, 4.0]  # none or one of them: round numbers


def test_points_stand_at_the_logarithm_of_x():
    """x: 1, 10, 100 with 8 % of the range as margin. y: the ticks 0 ... 1 are the axis."""
    root = ET.fromstring(scatter_svg([Panel("AP", "cost", [(1, 0.0, "a"), (10, 1.0, "b"), (100, 0.5, "c")])]))
    centres = [(float(c.get("cx", "")), float(c.get("cy", ""))) for c in root.iter(f"{SVG}circle")]
    width, height = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM
    expected = [LEFT + (x + 0.16) / 2.32 * width for x in (0, 1, 2)]
    for (x, y), wanted, score in zip(centres, expected, (0.0, 1.0, 0.5), strict=True):
        assert abs(x - wanted) < 0.1
        assert abs(y - (HEIGHT - BOTTOM - score * height)) < 0.1


def test_labels_of_near_points_do_not_overlap_and_text_is_escaped():
    points = [(1.0 + i / 100, 0.5, f"model-<{i}>") for i in range(4)]
    svg = scatter_svg([Panel("AP", "cost", [*points, (2.0, 0.9, "far")]), Panel("one", "cost", [(3, 0.1, "x")])])
    root = ET.fromstring(svg)
    places = [
        (float(t.get("x", "")), float(t.get("y", "")))
        for t in root.iter(f"{SVG}text")
        if re.fullmatch(r"model-<\d>", t.text or "")
    ]
    assert len(places) == 4
    for i, (x, y) in enumerate(places):
        for other_x, other_y in places[i + 1 :]:
            assert abs(x - other_x) >= 6.2 * 9 - 0.1 or abs(y - other_y) >= 12 - 0.1
