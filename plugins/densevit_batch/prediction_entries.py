"""Entries of predictions in COCO's results format, as lines of JSON and rows of a table."""

import csv
import io
from collections.abc import Mapping, Sequence
from typing import Any

from densevit.interfaces import Class, Predictions
from densevit.targets.types import TargetTypes, as_array
from densevit_batch.prediction_tables import BOX

_DIGITS = 4  # decimal places of numbers in a table


def json_entries(
    image_id: int | str, predictions: Predictions, classes: Sequence[Class], types: TargetTypes
) -> list[dict[str, Any]] | None:
    """Converts the predictions for one image to COCO's results format: one entry per object, and one for predictions
    per image.

    Returns None if there is neither.
    """
    objects: dict[str, Any] = {}
    image: dict[str, Any] = {}
    for key in (key for key in predictions if key in types and types[key].per != "pixel"):
        encoded = types[key].encode(as_array(predictions[key]), classes)
        if encoded is not None:
            (objects if types[key].per == "object" else image)[key] = encoded
    if not objects and not image:
        return None
    rows = zip(*objects.values(), strict=True)
    entries = [{"image_id": image_id} | {key: value for part in row for key, value in part.items()} for row in rows]
    return entries + ([{"image_id": image_id, **image}] if image else [])


def table_row(entry: Mapping[str, Any], names: Mapping[int, str]) -> dict[str, Any]:
    """Converts an entry to a table row: its box as `x`, `y`, `width`, `height`, its run-length code as text, and the
    class name as `class`. names: class names by category id."""
    row: dict[str, Any] = {}
    for key, value in entry.items():
        row |= dict(zip(BOX, value, strict=True)) if key == "bbox" else {key: value}
        if key == "category_id":
            row["class"] = names.get(value, "")
        elif key == "segmentation":
            row[key] = value["counts"]
    return row


def csv_text(entries: Sequence[Mapping[str, Any]], names: Mapping[int, str], lowest: float, file_name: str) -> str:
    """Returns the entries whose score is at least `lowest` as CSV with a header. The columns are the image's
    `file_name` and id, the class, and the entries' numbers and texts; masks and lists are left out. Numbers are rounded
    to four decimal places."""
    text = io.StringIO()
    table: csv.DictWriter[str] | None = None
    for entry in entries:
        is_listed = entry.get("score", lowest) >= lowest
        if is_listed or table is None:
            row = table_row(entry, names)
            first = {"image": file_name} | {key: row[key] for key in ("image_id", "class") if key in row}
            numbers = {key: round(value, _DIGITS) for key, value in row.items() if isinstance(value, float)}
            cells = first | {key: value for key, value in row.items() if isinstance(value, int | float | str)} | numbers
            cells.pop("segmentation", None)
            if table is None:
                table = csv.DictWriter(text, [*cells], restval="", extrasaction="ignore")
                table.writeheader()
            if is_listed:
                table.writerow(cells)
    return text.getvalue()
