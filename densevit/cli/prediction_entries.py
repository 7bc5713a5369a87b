"""Entries of predictions in COCO's results format, as lines of JSON and rows of a table."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from densevit.interfaces import Class, Predictions
from densevit.targets.types import TargetTypes, as_array

_DIGITS = 4  # decimal places of numbers in a table
_BOX = ("x", "y", "width", "height")


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


def json_lines(entries: Sequence[Mapping[str, Any]]) -> str:
    """Returns entries as JSON, one per line, with commas between them: the text of `json.dumps` for each entry.

    One call for all entries of an image takes two thirds of the time of one call per entry.
    """
    text = json.dumps(entries)[1:-1]
    between = '}, {"image_id": '  # not inside a string, where quotation marks are escaped
    if text.count(between) == len(entries) - 1:
        return text.replace(between, '},\n{"image_id": ')
    return ",\n".join(map(json.dumps, entries))


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
                row |= {side: round(number, _DIGITS) for side, number in zip(_BOX, value, strict=True)}
            elif isinstance(value, int | float | str):
                row[key] = round(value, _DIGITS) if isinstance(value, float) else value
        rows.append(row)
    return rows
