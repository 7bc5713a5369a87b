"""Tables that are written entry by entry."""

import csv
from pathlib import Path

from densevit_batch.joining import CsvTable


def test_a_table_has_the_columns_of_its_first_text(tmp_path: Path) -> None:
    """Cells are written as they are, also text that begins with `=`, and names that are not UTF-8."""
    file = CsvTable(tmp_path / "table.csv")
    rows = ("", "=1+1\udcff.png,0.5\r\n", "")
    for text in (*(f"image,score\r\n{row}" for row in rows), 'other,image\r\n7,"a\r\nb,c"\r\n'):
        file.write(text)
    file.close()
    with (tmp_path / "table.csv").open(newline="", encoding="utf-8", errors="surrogateescape") as rows:
        assert list(csv.reader(rows)) == [["image", "score"], ["=1+1\udcff.png", "0.5"], ["a\r\nb,c", ""]]
