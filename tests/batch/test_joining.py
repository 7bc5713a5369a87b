"""Tables that are written entry by entry."""

import csv
from pathlib import Path

from densevit_batch.joining import csv_table


def test_a_table_has_the_columns_of_its_first_text(tmp_path: Path) -> None:
    """Cells are written as they are, also text that begins with `=`, and names that are not UTF-8."""
    rows = ("", "=1+1\udcff.png,0.5\r\n", "")
    with csv_table(tmp_path / "table.csv") as write:
        for text in (*(f"image,score\r\n{row}" for row in rows), 'other,image\r\n7,"a\r\nb,c"\r\n'):
            write(text)
    with (tmp_path / "table.csv").open(newline="", encoding="utf-8", errors="surrogateescape") as rows:
        assert list(csv.reader(rows)) == [["image", "score"], ["=1+1\udcff.png", "0.5"], ["a\r\nb,c", ""]]
