"""Predictions for an image as columns of tables, with the keys of COCO's results format."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from densevit.interfaces import Class, Predictions, TargetType
from densevit.targets.types import TargetTypes, as_array
from densevit_batch.prediction_entries import json_entries, table_row
from densevit_batch.prediction_tables import BOX

_COLUMNS: dict[str, dict[str, type]] = {  # by key; without objects they have these types too
    "labels": {"category_id": np.int64, "class": str},
    "scores": {"score": np.float64},
    "boxes": dict.fromkeys(BOX, np.float64),
    "masks": {"segmentation": str},
}


def object_columns(predictions: Predictions, classes: Sequence[Class], types: TargetTypes) -> dict[str, Any]:
    """Returns columns with one value per object, possibly of length 0; empty if no key has values per object.

    Labels: `category_id` int64 and `class`. Scores: `score` float64. Boxes: `x`, `y`, `width`, `height` float64. Masks:
    `segmentation`, the `counts` of COCO's compressed run-length codes. Other keys: the entries of their type's
    `encode`, as lists; without objects these columns are missing.
    """
    objects = {key: value for key, value in predictions.items() if key in types and types[key].per == "object"}
    names = {c.file_id: c.name for c in classes}
    rows = [table_row(entry, names) for entry in json_entries(0, objects, classes, types) or ()]
    typed = {name: dtype for key in objects for name, dtype in _COLUMNS.get(key, {}).items()}
    columns: dict[str, Any] = {name: [row[name] for row in rows] for name in (rows[0] if rows else ())}
    columns.pop("image_id", None)
    return {**columns, **{name: np.array(columns.get(name, []), dtype) for name, dtype in typed.items()}}


def image_columns(
    predictions: Mapping[str, Any], classes: Sequence[Class], types: Mapping[str, TargetType]
) -> dict[str, Any]:
    """Returns the encoded predictions per image by key: numbers and texts such as `image_class`, and other values such
    as `class_scores` as JSON text."""
    keys = (key for key in predictions if key in types and types[key].per == "image")
    encoded = {key: types[key].encode(as_array(predictions[key]), classes) for key in keys}
    return {
        key: value if isinstance(value, int | float | str) else json.dumps(value)
        for key, value in encoded.items()
        if value is not None
    }
