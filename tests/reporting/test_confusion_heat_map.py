"""The confusion matrix in the report, with counts that are easy to check by hand."""

import re
from pathlib import Path

import numpy as np
import pytest

from densevit.errors import DataError
from densevit.reporting.confusion_heat_map import confusion, read_confusion
from densevit.reporting.html_page import Matrix, Numbered, Text

COUNTS = np.array([[870, 123, 7], [0, 3, 0], [0, 0, 0]])
NAMES = ["building", "wall, high", "<sky>"]


def listed(names: list[str], counts: np.ndarray) -> list[tuple[str, str]]:
    [numbers] = [part for part in confusion(names, counts) if isinstance(part, Numbered)]
    return list(numbers.entries)


def test_cells_show_shares_of_their_row_and_frequent_confusions_are_listed_by_count():
    [matrix] = [part for part in confusion(NAMES, COUNTS) if isinstance(part, Matrix)]
    found = re.findall(r">([^<>]+)</text>", matrix.svg)
    assert found == [*["building", "wall, high", "&lt;sky&gt;"] * 2, "87", "12", "1", "100"]
    assert listed(NAMES, COUNTS) == [
        ("building predicted as wall, high: 12.3 % of building", "(123)"),
        ("building predicted as <sky>: 0.7 % of building", "(7)"),
    ]
    few = listed(["few", "many"], np.array([[0, 2], [500, 99_500]]))
    assert few[0] == ("many predicted as few: 0.5 % of many", "(500)")
    assert len(listed([f"class {n}" for n in range(20)], np.arange(400).reshape(20, 20))) == 12


def test_matrices_that_are_empty_or_without_confusions_are_reported():
    for matrix, text in ((np.diag([1, 2]), "no confusions"), (np.zeros((2, 2), int), "empty")):
        last = confusion(["a", "b"], matrix)[-1]
        assert isinstance(last, Text) and text in last.text


@pytest.mark.parametrize("text", ["", "x\n", "x,a,b\na,1,2\n", "x,a\na,1.5\n", "x,a\na,-1\n"])
def test_invalid_matrix_file_error_names_the_file(tmp_path: Path, text: str):
    (tmp_path / "confusion-head.csv").write_text(text)
    with pytest.raises(DataError, match=r"confusion-head\.csv: expected"):
        read_confusion(tmp_path / "confusion-head.csv")
