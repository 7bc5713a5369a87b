"""Lists of entries as JSON and CSV files, one line per entry, which an interrupted prediction leaves complete, and a
later one continues."""

import csv
import json
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from densevit.evaluation.csv_options import FORM, READ_FORM

JSON_END = "\n]\n"


class JsonList:
    """Writes a JSON list entry by entry, one per line, to save memory.

    kept: ids of the images whose entries in an existing file are kept; the entries of other images are incomplete.
    """

    def __init__(self, path: Path, kept: Collection[int | str] = ()) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f"{path.name}.partial")  # the old file remains until the kept entries are written
        self._file = partial.open("w", encoding="utf-8")
        self._file.write("[")
        self._separator = "\n"
        for entry in read_entries(path) if kept else ():
            if entry.get("image_id", entry.get("id")) in kept:
                self.extend(json.dumps(entry))
        self.flush()
        partial.replace(path)

    def extend(self, lines: str) -> None:
        """Writes entries, one per line, with commas between them; nothing for an empty text."""
        if lines:
            self._file.write(self._separator + lines)
            self._separator = ",\n"

    def flush(self) -> None:
        self._file.flush()

    def close(self) -> None:
        self._file.write(JSON_END)
        self._file.close()


class CsvTable:
    """Writes a CSV file with the columns of its first row.

    kept: the argument of `JsonList`.
    """

    def __init__(self, path: Path, kept: Collection[int | str] = ()) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f"{path.name}.partial")
        self._file = partial.open("w", **FORM)
        self._writer: csv.DictWriter[str] | None = None
        if kept and path.is_file():
            names = {str(image_id) for image_id in kept}
            with path.open(**READ_FORM) as file:
                rows = (row for row in csv.DictReader(file) if None not in row.values())
                self.extend(row for row in rows if row["image_id"] in names)
        self.flush()
        partial.replace(path)

    def begin(self, row: Mapping[str, Any]) -> None:
        """Writes the keys of this row as the header if there is none yet."""
        if self._writer is None:
            self._writer = csv.DictWriter(self._file, list(row), extrasaction="ignore", restval="")
            self._writer.writeheader()

    def extend(self, rows: Iterable[Mapping[str, Any]]) -> None:
        for row in rows:
            self.begin(row)
            assert self._writer is not None
            self._writer.writerow(row)

    def flush(self) -> None:
        self._file.flush()

    def close(self) -> None:
        self._file.close()


def read_entries(path: Path) -> Iterator[dict[str, Any]]:
    """Yields the entries of a `JsonList`, even of an incomplete file; none if there is no file."""
    if not path.is_file():
        return
    with path.open(encoding="utf-8") as file:
        for line in file:
            text = line.strip().removesuffix(",")
            if text in ("", "[", "]", "[]"):
                continue
            try:
                yield json.loads(text.removeprefix("["))
            except json.JSONDecodeError:  # the last line of a killed process
                return
