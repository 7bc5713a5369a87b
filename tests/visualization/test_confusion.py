"""The confusion matrix in the report, with counts that are easy to check by hand."""

import re
from pathlib import Path

import numpy as np
import pytest

from densevit.errors import DataError
from densevit.evaluation import tables_file
from densevit.evaluation.miou import SemanticSegmentation
from densevit.interfaces import Class
from densevit.visualization.confusion import confusion_html, read_confusion

COUNTS = np.array([[870, 123, 7], [0, 3, 0], [0, 0, 0]])
NAMES = ["building", "wall, high", "<sky>"]


def cells(html: str) -> list[tuple[str, str, str]]:
    """(kind, title, text) of each cell with a count, row by row."""
    return re.findall(r'<td class="(\w+)(?: light)?" style="--opacity: [\d.]+" title="([^"]*)">([^<]*)</td>', html)


def test_cells_show_row_shares_and_titles_show_counts():
    assert cells(confusion_html(NAMES, COUNTS)) == [
        ("right", "building correct: 870, 87.0 % of building", "87"),
        ("wrong", "building predicted as wall, high: 123, 12.3 % of building", "12"),
        ("wrong", "building predicted as &lt;sky&gt;: 7, 0.7 % of building", "1"),
        ("right", "wall, high correct: 3, 100.0 % of wall, high", "100"),
    ]


def test_most_frequent_confusions_are_listed():
    listed = re.findall(r"<li>(.*?) <span", confusion_html(NAMES, COUNTS))
    assert listed == [
        "building predicted as wall, high: 12.3 % of building",
        "building predicted as &lt;sky&gt;: 0.7 % of building",
    ]


def test_confusions_are_ranked_by_count_not_share():
    html = confusion_html(["few", "many"], np.array([[0, 2], [500, 99_500]]))
    assert re.findall(r"<li>(.*?) <span", html)[0] == "many predicted as few: 0.5 % of many"


def test_rounding_never_shows_0_or_100_per_cent():
    shown = [text for _, _, text in cells(confusion_html(["a", "b"], np.array([[99_999, 1], [0, 5]])))]
    assert shown == ["&gt;99", "&lt;1", "100"]


@pytest.mark.parametrize(("classes", "numbers", "names"), [(2, True, True), (24, True, True), (60, False, True)])
def test_many_classes_have_cells_without_numbers(classes: int, numbers: bool, names: bool):
    html = confusion_html([f"class {n}" for n in range(classes)], np.full((classes, classes), 2))
    found = cells(html)
    assert len(found) == classes**2
    assert all(bool(text) == numbers for _, _, text in found)
    assert html.count("<th") == 2 * classes * names


def test_150_classes_give_a_page_of_moderate_size():
    rng = np.random.default_rng(0)
    counts = np.where(rng.random((150, 150)) < 0.3, rng.integers(1, 10**9, (150, 150)), 0)
    html = confusion_html([f"class {n}" for n in range(150)], counts)
    assert len(html) < 2_000_000 and html.count("<li>") == 12
    assert "<th" not in html and "class 3 predicted as class" in html  # the cells name the classes


def test_perfect_and_empty_matrices_are_reported():
    assert "There are no confusions." in confusion_html(["a", "b"], np.diag([1, 2]))
    assert "The matrix is empty." in confusion_html(["a", "b"], np.zeros((2, 2), int))


def test_counts_round_trip_through_a_file(tmp_path: Path):
    names = ["traffic light", 'a "b", c', "ñandú"]
    evaluator = SemanticSegmentation([Class(name, n, (0, 0, 0)) for n, name in enumerate(names)])
    counts = np.array([[2**60 + 1, 5, 0], [7, 0, 3], [0, 0, 1]])
    state = {"ids": [1], "scores": np.ones(1), "counts": counts, "bands": np.zeros((4, 4), np.int64), "fault": None}
    evaluator.merge([state])
    tables_file.write_tables({"head": evaluator}, tmp_path, {})
    read_names, read_counts = read_confusion(tmp_path / "confusion-head.csv")
    assert read_names == names and np.array_equal(read_counts, counts)


@pytest.mark.parametrize("text", ["", "x\n", "x,a,b\na,1,2\n", "x,a\na,1.5\n", "x,a\na,-1\n", "x,a\na,1,2\n"])
def test_invalid_matrix_file_error_names_the_file(tmp_path: Path, text: str):
    (tmp_path / "confusion-head.csv").write_text(text)
    with pytest.raises(DataError, match=r"confusion-head\.csv: expected"):
        read_confusion(tmp_path / "confusion-head.csv")
