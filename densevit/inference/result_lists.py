"""Files of predictions, one line per entry, which remain valid if prediction is interrupted and can be continued."""

import csv
import json
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from densevit.errors import DataError, DensevitError
from densevit.evaluation.csv_cells import FORM, READ_FORM, escaped, unescaped
from densevit.interfaces import Class

SETTINGS = "predict.json"
_DIGITS = 4  # decimal places of numbers in a table
BOX = ("x", "y", "width", "height")


class JsonList:
    """Writes a JSON list entry by entry, one per line, to save memory.

    kept: ids of the images whose entries in an existing file are kept; the entries of other images are incomplete.
    """

    def __init__(self, path: Path, kept: Collection[int | str] = ()) -> None:
        entries = [e for e in read_entries(path) if e.get("image_id", e.get("id")) in kept] if kept else []
        partial = path.with_name(f"{path.name}.partial")  # the old file remains until the kept entries are written
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
    """Writes a CSV file with the columns of its first row; text that a spreadsheet would execute is escaped.

    kept: see `JsonList`.
    """

    def __init__(self, path: Path, kept: Collection[int | str] = ()) -> None:
        rows = []
        if kept and path.is_file():
            with path.open(**READ_FORM) as file:
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
        """Writes the keys of this row as the header if there is none yet."""
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
    """Returns table rows for entries in COCO's results format: image, class name, numbers, texts and box. Numbers are
    rounded to four decimal places.

    Other values, such as masks, are omitted.
    """
    names, rows = {c.file_id: c.name for c in classes}, []
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
    """Reads the entries of a `JsonList`, even of an incomplete file; none if there is no file."""
    entries = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else []:
        text = line.strip().removesuffix(",")
        if text in ("", "[", "]", "[]"):
            continue
        try:
            entries.append(json.loads(text.removeprefix("[")))
        except json.JSONDecodeError:  # the last line of a killed process
            break
    return entries


def check_settings(folder: Path, settings: Mapping[str, Any]) -> None:
    """Raises DensevitError if the folder has no predictions or was written with another model or other settings.

    settings: with the model's source as `model`, and its fingerprint as `weights`.
    """
    saved = check_model(folder, str(settings.get("model")), settings.get("weights"))
    current = json.loads(json.dumps(dict(settings)))
    changed = [key for key in {**saved, **current} if key != "model" and saved.get(key) != current.get(key)]
    if changed:
        listed = "; ".join(f"{key} is {current.get(key)!r}, was {saved.get(key)!r}" for key in changed)
        raise DensevitError(f"--resume: {folder} was predicted with other settings: {listed}. Fix: name a new folder.")


def check_model(folder: Path, source: str, fingerprint: str | None) -> dict[str, Any]:
    """Returns the settings of the predictions in a folder. Raises DensevitError if it has none, and if they are those
    of another model.

    source: of the model, for messages. fingerprint: of the model, see `Predictor.fingerprint`; None: unknown.
    """
    file = folder / SETTINGS
    if not file.is_file():
        raise DensevitError(f"{folder} has no {SETTINGS}, and so no predictions that `densevit predict` wrote.")
    try:
        saved = dict(json.loads(file.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise DataError(f"{file}: expected the settings of a prediction as JSON; found: {error}") from None
    if saved.get("weights") != fingerprint:
        raise DensevitError(
            f"{folder} has the predictions of another model: of {saved.get('model')!r}, whose classes or weights are "
            f"not those of {source!r}. Fix: name that model, or predict with this one into a new folder."
        )
    return saved
