"""The confusion matrix in the report, with counts that are easy to check by hand."""

import re
from pathlib import Path

import numpy as np
import pytest

from densevit.errors import DataError
from densevit.evaluation import tables_file
from densevit.evaluation.miou import SemanticSegmentation
from densevit.interfaces import Class
from densevit.reporting.confusion import confusion, read_confusion
from densevit.reporting.html_page import Matrix, Numbered, Text

COUNTS = np.array([[870, 123, 7], [0, 3, 0], [0, 0, 0]])
NAMES = ["building", "wall, high", "<sky>"]


def listed(names: list[str], counts: np.ndarray) -> list[tuple[str, str]]:
    [numbers] = [part for part in confusion(names, counts) if isinstance(part, Numbered)]
    return list(numbers.entries)


def test_cells_show_shares_of_their_row():
    [matrix] = [part for part in confusion(NAMES, COUNTS) if isinstance(part, Matrix)]
    found = re.findall(r">([^<>]+)</text>", matrix.svg)
    assert found == [*["building", "wall, high", "&lt;sky&gt;"] * 2, "87", "12", "1", "100"]


def test_most_frequent_confusions_are_listed():
    assert listed(NAMES, COUNTS) == [
        ("building predicted as wall, high: 12.3 % of building", "(123)"),
        ("building predicted as <sky>: 0.7 % of building", "(7)"),
    ]


def test_confusions_are_ranked_by_count_not_share():
    counts = np.array([[0, 2], [500, 99_500]])
    assert listed(["few", "many"], counts)[0] == ("many predicted as few: 0.5 % of many", "(500)")


def test_at_most_12_are_listed():
    rng = np.random.default_rng(0)
    counts = np.where(rng.random((150, 150)) < 0.3, rng.integers(1, 10**9, (150, 150)), 0)
    assert len(listed([f"class {n}" for n in range(150)], counts)) == 12


def test_more_classes_than_pixels_have_the_list_only():
    counts = np.zeros((1001, 1001), int)
    counts[3, 7] = 2
    parts = confusion([str(n) for n in range(1001)], counts)
    assert not any(isinstance(part, Matrix) for part in parts)
    assert isinstance(parts[0], Text) and parts[0].text == "1001 classes are too many for a matrix."


def test_perfect_and_empty_matrices_are_reported():
    for counts, text in (
        (np.diag([1, 2]), "There are no confusions."),
        (np.zeros((2, 2), int), "The matrix is empty."),
    ):
        last = confusion(["a", "b"], counts)[-1]
        assert isinstance(last, Text) and last.text == text


def test_counts_round_trip_through_a_file(tmp_path: Path):
    names = ["traffic light", 'a "b", c', "ñandú"]
    evaluator = SemanticSegmentation([Class(name, n, (0, 0, 0)) for n, name in enumerate(names)])
    counts = np.array([[2**60 + 1, 5, 0], [7, 0, 3], [0, 0, 1]])
    state = {"ids": [1], "scores": np.ones(1), "counts": counts, "bands": np.zeros((4, 4), np.int64), "fault": None}
    evaluator.merge([state])
    tables_file.write_tables({"head": evaluator}, tmp_path, {})
    read_names, read_counts, _ = read_confusion(tmp_path / "confusion-head.csv")
    assert read_names == names and np.array_equal(read_counts, counts)


@pytest.mark.parametrize("text", ["", "x\n", "x,a,b\na,1,2\n", "x,a\na,1.5\n", "x,a\na,-1\n", "x,a\na,1,2\n"])
def test_invalid_matrix_file_error_names_the_file(tmp_path: Path, text: str):
    (tmp_path / "confusion-head.csv").write_text(text)
    with pytest.raises(DataError, match=r"confusion-head\.csv: expected"):
        read_confusion(tmp_path / "confusion-head.csv")
