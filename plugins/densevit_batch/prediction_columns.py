"""Predictions for an image as columns with a value per object: lines of COCO's results format, CSV, and tables."""

import csv
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from itertools import compress
from typing import Any, Literal

import numpy as np
from pydantic_core import to_json

from densevit.interfaces import Class, Predictions
from densevit.targets.types import TargetTypes, as_array
from densevit_batch.prediction_tables import BOX

Columns = Mapping[str, Any]
"""Columns with a value per object: by name an array of numbers, (N,) or (N, K), or a list of N values."""
_DIGITS = 4  # decimal places of numbers in a CSV
_SMALLEST, _LARGEST = 1e-4, 1e15  # of numbers that all writers of JSON format without an exponent


def encoded(
    predictions: Predictions, classes: Sequence[Class], types: TargetTypes, per: Literal["object", "image"]
) -> dict[str, Any]:
    """Returns the predictions per object as columns of COCO's results format, or those per image as JSON values."""
    values: dict[str, Any] = {}
    for key in (key for key in predictions if key in types and types[key].per == per):
        value = types[key].encode(as_array(predictions[key]), classes)
        if value is not None:
            values |= value if per == "object" else {key: value}
    return values


def json_lines(image_id: int | str, columns: Columns) -> str:
    """Returns an entry of COCO's results format per object, each on its line, formatted from the columns."""
    image = json.dumps({"image_id": image_id})[:-1].replace("%", "%%")
    entry = image + "".join(f', "{name}": %s' for name in columns) + "}"
    rows = zip(*map(_json_texts, columns.values()), strict=True)
    return ",\n".join([entry % row for row in rows])


def _json_texts(values: Any) -> list[str]:
    """The JSON text of each value of a column, as of `json.dumps`; the numbers of an array are formatted in one call,
    by pydantic in an eighth of the time unless one has an exponent."""
    if not isinstance(values, np.ndarray) or not values.size:
        return [json.dumps(value) for value in values]
    sizes = np.abs(values)
    if ((sizes == 0) | (sizes >= _SMALLEST) & (sizes < _LARGEST)).all():
        text = to_json(values.tolist()).decode().replace(",", ", ")
    else:
        text = json.dumps(values.tolist())
    if values.ndim == 1:
        return text[1:-1].split(", ")
    return [f"[{row}]" for row in text[2:-2].split("], [")]


def table_columns(columns: Columns, classes: Sequence[Class]) -> dict[str, Any]:
    """Converts columns of COCO's results format to those of a table.

    `category_id` is followed by the names, `class`. Boxes become `x`, `y`, `width`, `height`, float64, and masks the
    `counts` of their compressed run-length codes.
    """
    table: dict[str, Any] = {}
    for name, values in columns.items():
        if name == "bbox":
            table |= dict(zip(BOX, values.T, strict=True))
        elif name == "segmentation":
            table[name] = np.array([code["counts"] for code in values], str)
        else:
            table[name] = values
        if name == "category_id":
            names = {c.file_id: c.name for c in classes}
            table["class"] = np.array([names[number] for number in values.tolist()], str)
    return table


def image_columns(values: Mapping[str, Any]) -> dict[str, Any]:
    """Returns encoded predictions per image as values of a table: numbers and texts such as `image_class`, and other
    values such as `class_scores` as JSON text."""
    return {key: value if isinstance(value, int | float | str) else json.dumps(value) for key, value in values.items()}


def as_lists(table: Columns) -> dict[str, list[Any]]:
    """The columns as lists of JSON values."""
    return {name: values.tolist() if isinstance(values, np.ndarray) else [*values] for name, values in table.items()}


def csv_text(file_name: str, table: Mapping[str, list[Any]], lowest: float = 0.0) -> str:
    """Returns the rows of an image whose `score`, if there is one, is at least `lowest` as CSV with a header.

    The columns are the image's file name and id, the class, and other columns of numbers, rounded to four decimal
    places, and texts; without masks. Returns "" for a table without rows.
    """
    columns: dict[str, list[Any]] = {"image": [file_name] * len(next(iter(table.values())))}
    columns |= {name: table[name] for name in ("image_id", "class", *table) if name in table}
    columns = {name: x for name, x in columns.items() if x and isinstance(x[0], int | float | str)}
    columns.pop("segmentation", None)
    if not columns:
        return ""
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(columns)
    rows: Iterable[Sequence[Any]] = zip(*columns.values(), strict=True)
    if "score" in columns:
        rows = compress(rows, [score >= lowest for score in columns["score"]])
    for row in rows:
        writer.writerow([round(cell, _DIGITS) if isinstance(cell, float) else cell for cell in row])
    return text.getvalue()
