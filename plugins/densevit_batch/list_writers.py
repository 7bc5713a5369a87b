"""Writers of lists and tables that do not fit into memory: JSON, CSV, and Parquet in part files."""

import csv
import io
import json
import shutil
from pathlib import Path
from typing import Any

from densevit.evaluation.csv_options import FORM


class JsonList:
    """A JSON list with one entry per line."""

    def __init__(self, path: Path) -> None:
        self._file, self._separator = path.open("w", encoding="utf-8"), "[\n"

    def write(self, text: str) -> None:
        if text:
            self._file.write(self._separator + text)
            self._separator = ",\n"

    def close(self) -> None:
        self._file.write("[\n]\n" if self._separator == "[\n" else "\n]\n")
        self._file.close()


class CsvTable:
    """A CSV file. The header of the first added CSV text sets the columns; rows of later texts are fitted to these
    columns."""

    def __init__(self, path: Path) -> None:
        self._file, self._columns = path.open("w", **FORM), ""

    def write(self, text: str) -> None:
        columns, _, rows = text.partition("\r\n")
        if columns == self._columns or not self._columns:
            self._file.write(rows if self._columns else text)
        else:
            table = csv.DictWriter(self._file, next(csv.reader([self._columns])), restval="", extrasaction="ignore")
            table.writerows(csv.DictReader(io.StringIO(text, newline="")))
        self._columns = self._columns or columns

    def close(self) -> None:
        self._file.close()


class ParquetTable:
    """A Parquet table: a folder of part files. rows: least number of rows of a part file, except the last."""

    def __init__(self, path: Path, rows: int) -> None:
        self._path, self._partial, self._most = path, path.with_name(f"{path.name}.partial"), rows
        self._part, self._rows = 0, list[dict[str, Any]]()
        shutil.rmtree(self._partial, ignore_errors=True)
        self._partial.mkdir(parents=True)

    def write(self, text: str) -> None:
        self._rows += json.loads(text)
        if len(self._rows) >= self._most:
            self._write()

    def close(self) -> None:
        if self._rows or not self._part:
            self._write()
        shutil.rmtree(self._path, ignore_errors=True)
        self._partial.rename(self._path)

    def _write(self) -> None:
        import pyarrow
        from pyarrow import parquet

        names = dict.fromkeys(key for row in self._rows for key in row)
        table = pyarrow.table({name: [row.get(name) for row in self._rows] for name in names or ("image_id",)})
        parquet.write_table(table, self._partial / f"{self._part:06}.parquet", compression="zstd")
        self._part += 1
        self._rows.clear()
