"""Lists and tables that are written entry by entry."""

import csv
import json
from pathlib import Path

from densevit_batch.joining import CsvTable, JsonList


def test_a_json_list_has_an_entry_per_line(tmp_path: Path) -> None:
    for texts, expected in (([], []), (["", '{"a": 1},\n{"a": 2}', "", '{"a": 3}'], [{"a": n} for n in (1, 2, 3)])):
        file = JsonList(tmp_path / "list.json")
        for text in texts:
            file.write(text)
        file.close()
        assert json.loads((tmp_path / "list.json").read_text()) == expected
        assert len((tmp_path / "list.json").read_text().splitlines()) == 2 + len(expected)


def test_a_table_has_the_columns_of_its_first_text(tmp_path: Path) -> None:
    """Cells are written as they are, also text that begins with `=`, and names that are not UTF-8."""
    file = CsvTable(tmp_path / "table.csv")
    texts = (
        "image,score\r\n",
        "image,score\r\n=1+1\udcff.png,0.5\r\n",
        'other,image\r\n7,"a\r\nb,c"\r\n',
        "image,score\r\n",
    )
    for text in texts:
        file.write(text)
    file.close()
    with (tmp_path / "table.csv").open(newline="", encoding="utf-8", errors="surrogateescape") as rows:
        assert list(csv.reader(rows)) == [["image", "score"], ["=1+1\udcff.png", "0.5"], ["a\r\nb,c", ""]]
