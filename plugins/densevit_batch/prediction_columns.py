"""Predictions for an image as columns of tables, with the keys of COCO's results format."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from densevit.interfaces import Class, TargetType
from densevit.targets.types import as_array
from densevit_batch.prediction_tables import BOX


def object_columns(
    predictions: Mapping[str, Any], classes: Sequence[Class], types: Mapping[str, TargetType]
) -> dict[str, Any]:
    """Returns columns with one value per object, possibly of length 0; empty if no key has values per object.

    Labels: `category_id` int64 and `class`. Scores: `score` float64. Boxes: `x`, `y`, `width`, `height` float64. Masks:
    `segmentation`, the `counts` of COCO's compressed run-length codes. Other keys: the entries of their type's
    `encode`, as lists; without objects these columns are missing.
    """
    columns: dict[str, Any] = {}
    for key in (key for key in predictions if key in types and types[key].per == "object"):
        entries = types[key].encode(as_array(predictions[key]), classes)
        if entries is None:
            continue
        if key == "labels":
            names = {c.file_id: c.name for c in classes}
            ids = [entry["category_id"] for entry in entries]
            columns |= {"category_id": np.array(ids, np.int64), "class": np.array([names[n] for n in ids], str)}
        elif key == "scores":
            columns["score"] = np.array([entry["score"] for entry in entries], np.float64)
        elif key == "boxes":
            boxes = np.array([entry["bbox"] for entry in entries], np.float64).reshape(-1, 4)
            columns |= dict(zip(BOX, boxes.T, strict=True))
        elif key == "masks":
            columns["segmentation"] = np.array([entry["segmentation"]["counts"] for entry in entries], str)
        else:
            columns |= {name: [entry[name] for entry in entries] for name in (entries[0] if entries else ())}
    return columns


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
