"""Conversion of results to JSON and tables."""

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from densevit.errors import DensevitError
from densevit.inference.maps import as_array
from densevit.interfaces import Class, Predictions
from densevit.targets.types import TargetTypes

if TYPE_CHECKING:
    import pandas

BOX = ("x1", "y1", "x2", "y2")
PANOPTIC_BASE = 1000  # a panoptic id is class index * 1000 + number of the instance


def to_json(
    size: tuple[int, int],
    predictions: Mapping[str, Predictions],
    classes: Mapping[str, Sequence[Class]],
    types: Mapping[str, TargetTypes],
) -> str:
    """Converts the predictions of each head to JSON, see `Result.to_json`."""
    heads = {head: _head(found, classes.get(head, ()), types[head]) for head, found in predictions.items()}
    return json.dumps({"height": size[0], "width": size[1], "heads": heads}, ensure_ascii=False)


def _head(found: Predictions, classes: Sequence[Class], types: TargetTypes) -> dict[str, Any]:
    values: dict[str, Any] = {"objects": _objects(found, classes, types)} if "labels" in found else {}
    for key, value in found.items():
        per = types[key].per if key in types else "image"
        array = as_array(value)
        if key == "image_class":
            values[key] = {"name": types[key].text(array, classes), "label": int(array)}
        elif per == "image" and array.dtype.kind in "biufU":
            values[key] = array.tolist()
        elif per == "pixel" and array.ndim == 2 and array.dtype.kind in "biu":
            values[key] = _regions(key, array, classes)
    return values


def _objects(found: Predictions, classes: Sequence[Class], types: TargetTypes) -> list[dict[str, Any]]:
    """Returns one entry per object."""
    entries = [{"name": classes[label].name, "label": label} for label in as_array(found["labels"]).tolist()]
    singular = {"scores": "score", "boxes": "box", "masks": "mask"}
    for key, value in found.items():
        if key != "labels" and key in types and types[key].per == "object":
            rows = _codes(as_array(value)) if key == "masks" else as_array(value).tolist()
            for entry, row in zip(entries, rows, strict=True):
                entry[singular.get(key, key)] = row
    return entries


def _regions(key: str, values: np.ndarray, classes: Sequence[Class]) -> list[dict[str, Any]]:
    """Returns one entry with a mask per value in an integer map (H, W); negative values are void."""
    ids = [value for value in np.unique(values).tolist() if value >= 0]
    codes = _codes(np.stack([values == value for value in ids])) if ids else []
    return [{**_region(key, value, classes), "mask": code} for value, code in zip(ids, codes, strict=True)]


def _region(key: str, value: int, classes: Sequence[Class]) -> dict[str, Any]:
    if key == "semantic":
        return {"name": classes[value].name, "label": value}
    if key == "panoptic":
        label = value // PANOPTIC_BASE
        return {"name": classes[label].name, "label": label, "id": value}
    return {"value": value}


def _codes(masks: np.ndarray) -> list[dict[str, Any]]:
    """Encodes masks (N, H, W) as COCO's compressed run-length codes."""
    from pycocotools import mask as codes  # late: it takes time to import

    encoded = codes.encode(np.asfortranarray(masks.astype(np.uint8).transpose(1, 2, 0))) if len(masks) else []
    return [{"size": [*map(int, code["size"])], "counts": code["counts"].decode()} for code in encoded]


def to_pandas(predictions: Mapping[str, Predictions], classes: Mapping[str, Sequence[Class]]) -> "pandas.DataFrame":
    """Converts the objects of all heads to a table, see `Result.to_pandas`."""
    try:
        import pandas
    except ModuleNotFoundError:
        raise DensevitError(
            "to_pandas() needs the package pandas, which is not installed: pip install pandas."
        ) from None
    with_objects = {head: found for head, found in predictions.items() if "labels" in found}
    if not with_objects:
        keys = ", ".join(key for found in predictions.values() for key in found)
        raise DensevitError(f"to_pandas() has one row per object; this result has no objects, only {keys}.")
    tables = [pandas.DataFrame(_columns(head, found, classes[head])) for head, found in with_objects.items()]
    return pandas.concat([table for table in tables if len(table)] or tables[:1], ignore_index=True)


def _columns(head: str, found: Predictions, classes: Sequence[Class]) -> dict[str, Any]:
    labels = as_array(found["labels"])
    columns: dict[str, Any] = {
        "head": np.full(len(labels), head, dtype=object),
        "name": np.array([classes[label].name for label in labels.tolist()], dtype=object),
        "label": labels,
    }
    if "scores" in found:
        columns["score"] = as_array(found["scores"])
    if "boxes" in found:
        columns |= dict(zip(BOX, as_array(found["boxes"]).reshape(-1, 4).T, strict=True))
    return columns
