"""Lists of predictions in files, one line each, which an interrupted prediction leaves complete and continues."""

import csv
import json
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from densevit.errors import DataError, DensevitError
from densevit.evaluation.csv_cells import FORM, escaped, unescaped
from densevit.interfaces import Class

SETTINGS = "predict.json"
_DIGITS = 4  # of numbers in a table, after the point
BOX = ("x", "y", "width", "height")


class JsonList:
    """A JSON list that is written entry by entry, one per line, to save memory.

    kept: the ids of the images whose entries of an existing file are kept; its other entries are incomplete.
    """

    def __init__(self, path: Path, kept: Collection[int | str] = ()) -> None:
        entries = [e for e in read_entries(path) if e.get("image_id", e.get("id")) in kept] if kept else []
        partial = path.with_name(f"{path.name}.partial")  # the old file stays until the kept entries are written
        self._file = partial.open("w", encoding="utf-8")
        self._file.write("[")
        self._separator = "\n"
        self.extend(entries)
        self.flush()
        partial.replace(path)

    def extend(self, entries: Sequence[Mapping[str, Any]]) -> None:
        for entry in entries:
            self._file.write(self._separator + json.dumps(entry))
            self._separator = ",\n"

    def flush(self) -> None:
        self._file.flush()

    def close(self) -> None:
        self._file.write("\n]\n")
        self._file.close()


class CsvTable:
    """A CSV file whose columns are those of its first row; text that a spreadsheet would run is escaped.

    kept: as of `JsonList`.
    """

    def __init__(self, path: Path, kept: Collection[int | str] = ()) -> None:
        rows = []
        if kept and path.is_file():
            with path.open(**FORM) as file:
                names = {str(image_id) for image_id in kept}
                read = [row for row in csv.DictReader(file) if None not in row.values()]
            rows = [
                row for row in ({key: unescaped(row[key]) for key in row} for row in read) if row["image_id"] in names
            ]
        partial = path.with_name(f"{path.name}.partial")
        self._file = partial.open("w", **FORM)
        self._writer: csv.DictWriter[str] | None = None
        self.extend(rows)
        self.flush()
        partial.replace(path)

    def begin(self, row: Mapping[str, Any]) -> None:
        """Writes the header, the keys of this row, if there is none yet."""
        if self._writer is None:
            self._writer = csv.DictWriter(self._file, list(row), extrasaction="ignore", restval="")
            self._writer.writeheader()

    def extend(self, rows: Sequence[Mapping[str, Any]]) -> None:
        for row in rows:
            self.begin(row)
            assert self._writer is not None
            self._writer.writerow({key: escaped(value) for key, value in row.items()})

    def flush(self) -> None:
        self._file.flush()

    def close(self) -> None:
        self._file.close()


def csv_rows(entries: Sequence[Mapping[str, Any]], file_name: str, classes: Sequence[Class]) -> list[dict[str, Any]]:
    """Rows of entries in COCO's results format: the image, the class's name, numbers, texts and the box. Numbers are
    rounded to four digits after the point.

    Values of other forms, such as masks, are left out.
    """
    names, rows = {one.file_id: one.name for one in classes}, []
    for entry in entries:
        row: dict[str, Any] = {"image": file_name, "image_id": entry["image_id"]}
        if "category_id" in entry:
            row["class"] = names.get(entry["category_id"], "")
        for key, value in entry.items():
            if key == "bbox":
                row |= {side: round(number, _DIGITS) for side, number in zip(BOX, value, strict=True)}
            elif isinstance(value, int | float | str):
                row[key] = round(value, _DIGITS) if isinstance(value, float) else value
        rows.append(row)
    return rows


def read_entries(path: Path) -> list[dict[str, Any]]:
    """The entries of a `JsonList`, also of an incomplete file; none if there is no file."""
    entries = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else []:
        text = line.strip().removesuffix(",")
        if text in ("", "[", "]", "[]"):
            continue
        try:
            entries.append(json.loads(text.removeprefix("[")))
        except json.JSONDecodeError:  # the line at which a killed process stopped
            break
    return entries


def check_settings(folder: Path, settings: Mapping[str, Any]) -> None:
    """Raises DensevitError if the folder has no predictions, or predictions with other settings."""
    file = folder / SETTINGS
    if not file.is_file():
        raise DensevitError(f"--resume: {folder} has no {SETTINGS}, and so no predictions to go on with.")
    try:
        found = dict(json.loads(file.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise DataError(f"{file}: expected the settings of a prediction as JSON; found: {error}") from None
    wanted = json.loads(json.dumps(dict(settings)))
    other = [key for key in {**found, **wanted} if found.get(key) != wanted.get(key)]
    if other:
        listed = "; ".join(f"{key} is {wanted.get(key)!r}, was {found.get(key)!r}" for key in other)
        raise DensevitError(f"--resume: {folder} was predicted with other settings: {listed}. Fix: name a new folder.")
