"""Tables, plots and image scores as files."""

import csv
from pathlib import Path

import pytest

from densevit.errors import DataError
from densevit.evaluation import tables_file
from densevit.interfaces import Evaluator, Plot

PLOT = Plot("recall", "precision", {"cat": [(0.0, 1.0), (0.5, 0.1 + 0.2)]}, unit_axes=True)


class Counting(Evaluator):
    lower_is_better = ("error",)

    def record(self, prediction, truth):
        return prediction["score"]

    def tables(self, records, threshold):
        return {"counts": [["class", "count"], ["cat, <dog>", len(records)], ["threshold", threshold]]}

    def plots(self, records):
        return {"curve": PLOT}

    def image_scores(self, records, threshold):
        return records


def test_files_hold_tables_plots_and_the_worst_images_first(tmp_path: Path):
    evaluator = Counting([])
    ids = {"b": 0.5, 7: 0.25, 3: 0.5, "a": 0.5, 4: None}
    evaluator.update([{"score": score} for score in ids.values()], [{"image_id": key} for key in ids])
    for uses, threshold, thresholds in ((False, "0.5", {}), (True, "0.25", {"pets": 0.25})):
        evaluator.uses_threshold = uses
        tables_file.write_tables({"pets": evaluator}, tmp_path, {7: "cats/7.jpg", "a": "a.png"}, {"pets": 0.25})
        assert tables_file.read(tmp_path / "counts-pets.csv")[1:] == [["cat, <dog>", "4"], ["threshold", threshold]]
        assert tables_file.read_thresholds(tmp_path) == thresholds
    assert tables_file.read_plots(tmp_path) == {"pets": {"curve": PLOT}}
    assert tables_file.read_lower_is_better(tmp_path) == ["pets/error"]
    assert tables_file.read(tmp_path / "images-pets.csv") == [
        ["image", "image_id", "score"],
        ["cats/7.jpg", "7", "0.25"],
        ["3", "3", "0.5"],
        ["a.png", "a", "0.5"],
        ["b", "b", "0.5"],
    ]


def test_values_are_read_as_numbers_but_names_are_not(tmp_path: Path):
    tables_file.write(
        [["class", "2", "AP"], ["7", 3, 0.25], ["1.5", 0, float("nan")], ["cat", "", 1e-7]], tmp_path / "a.csv"
    )
    header, *rows = tables_file.read_values(tmp_path / "a.csv")
    assert header == ["class", "2", "AP"]
    assert rows[0] == ["7", 3, 0.25] and rows[2] == ["cat", "", 1e-7]
    assert rows[1][:2] == ["1.5", 0] and rows[1][2] != rows[1][2]


@pytest.mark.parametrize("text", ["", "[]", '{"pets": {"curve": {"x": 1}}}', '{"pets": 3}'])
def test_a_damaged_file_is_reported(tmp_path: Path, text: str):
    (tmp_path / "plots.json").write_text(text)
    with pytest.raises(DataError, match=r"plots.json: expected plots as JSON"):
        tables_file.read_plots(tmp_path)


TEXTS = ["=cmd|' /C calc'!A0", "-2+3", "\t=1", "\r=1", "'=1", "-5", "'quoted'", "a,b", "a\nb", ""]


def test_cells_are_written_as_they_are_and_read_back(tmp_path: Path):
    tables_file.write([["class", "AP"], *([text, -0.5] for text in TEXTS)], tmp_path / "classes-pets.csv")
    with (tmp_path / "classes-pets.csv").open(newline="", encoding="utf-8") as file:
        written = [row[0] for row in csv.reader(file)][1:]
    assert written == TEXTS == [row[0] for row in tables_file.read(tmp_path / "classes-pets.csv")][1:]
    assert tables_file.read_values(tmp_path / "classes-pets.csv")[1] == [TEXTS[0], -0.5]
