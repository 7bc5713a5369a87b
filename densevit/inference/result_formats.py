"""Formats of a result: JSON, a pandas table, and supervision's detections."""

import importlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from densevit.errors import DensevitError
from densevit.interfaces import LABEL_DIVISOR, Class, Predictions
from densevit.targets.image_classes import ImageClass
from densevit.targets.object_targets import InstanceMasks
from densevit.targets.run_length_masks import RunLengthMasks
from densevit.targets.types import TargetTypes, as_array

if TYPE_CHECKING:
    import pandas
    import supervision


def as_dict(
    predictions: Mapping[str, Predictions],
    classes: Mapping[str, Sequence[Class]],
    types: Mapping[str, TargetTypes],
    size: tuple[int, int],
) -> dict[str, Any]:
    """Returns the values that `Result.to_dict` documents."""
    heads = {head: _as_json(outputs, classes.get(head, ()), types[head]) for head, outputs in predictions.items()}
    return {"height": size[0], "width": size[1], "heads": heads}


def as_table(predictions: Mapping[str, Predictions], classes: Mapping[str, Sequence[Class]]) -> "pandas.DataFrame":
    """Returns the table that `Result.to_pandas` documents."""
    pandas = _imported("pandas", "to_pandas")
    heads = [head for head, outputs in predictions.items() if "labels" in outputs]
    if not heads:
        raise DensevitError(
            f"to_pandas() has one row per object; this result has no objects, only {_keys(predictions)}."
        )
    tables = [pandas.DataFrame(_columns(head, predictions[head], classes[head])) for head in heads]
    return pandas.concat([table for table in tables if len(table)] or tables[:1], ignore_index=True)


def as_detections(
    predictions: Mapping[str, Predictions], classes: Mapping[str, Sequence[Class]]
) -> "supervision.Detections":
    """Returns the detections that `Result.to_supervision` documents."""
    supervision = _imported("supervision", "to_supervision")
    for key, convert in (("boxes", _detections), ("semantic", _class_regions), ("panoptic", _segments)):
        heads = [head for head, outputs in predictions.items() if key in outputs]
        if len(heads) > 1:
            raise DensevitError(
                f"The heads {' and '.join(heads)} predict {key}, but supervision.Detections supports only one. "
                f"Fix: result[{heads[0]!r}].to_supervision()."
            )
        if heads:
            [head] = heads
            detections = convert(predictions[head])
            names = [classes[head][label].name for label in detections["class_id"]]
            return supervision.Detections(**detections, data={"class_name": np.array(names, dtype=str)})
    raise DensevitError(
        f"supervision.Detections supports objects, label and panoptic maps; this result has only {_keys(predictions)}."
    )


def _keys(predictions: Mapping[str, Predictions]) -> str:
    return ", ".join(key for outputs in predictions.values() for key in outputs)


def _imported(package: str, method: str) -> Any:
    try:
        return importlib.import_module(package)
    except ModuleNotFoundError:
        raise DensevitError(
            f"{method}() needs the package {package}, which is not installed: pip install {package}."
        ) from None


def _as_json(outputs: Predictions, classes: Sequence[Class], types: TargetTypes) -> dict[str, Any]:
    """Converts the predictions of a head to JSON values (`Result.to_dict`)."""
    values: dict[str, Any] = {"objects": _objects(outputs, classes, types)} if "labels" in outputs else {}
    for key, value in outputs.items():
        per = types[key].per if key in types else "image"
        array = as_array(value)
        if key == "image_class":
            values[key] = {"name": ImageClass().text(array, classes), "label": int(array)}
        elif per == "image" and array.dtype.kind in "biufU":
            values[key] = array.tolist()
        elif per == "pixel" and array.ndim == 2 and array.dtype.kind in "biu":
            values[key] = _regions(key, array, classes)
    return values


def _objects(outputs: Predictions, classes: Sequence[Class], types: TargetTypes) -> list[dict[str, Any]]:
    """One entry per object."""
    entries = [{"name": classes[label].name, "label": label} for label in as_array(outputs["labels"]).tolist()]
    singular = {"scores": "score", "boxes": "box", "masks": "mask"}
    for key, value in outputs.items():
        if key != "labels" and key in types and types[key].per == "object":
            array = as_array(value)
            rows = types[key].encode(array, classes)["segmentation"] if key == "masks" else array.tolist()
            for entry, row in zip(entries, rows, strict=True):
                entry[singular.get(key, key)] = row
    return entries


def _regions(key: str, values: np.ndarray, classes: Sequence[Class]) -> list[dict[str, Any]]:
    """One entry with a mask per value of an integer map (H, W); negative values are void."""
    ids = [value for value in np.unique(values).tolist() if value >= 0]
    codes = InstanceMasks().encode(RunLengthMasks.from_ids(values, np.array(ids, int)), classes)["segmentation"]
    return [{**_region(key, value, classes), "mask": code} for value, code in zip(ids, codes, strict=True)]


def _region(key: str, value: int, classes: Sequence[Class]) -> dict[str, Any]:
    if key == "semantic":
        return {"name": classes[value].name, "label": value}
    if key == "panoptic":
        label = value // LABEL_DIVISOR
        return {"name": classes[label].name, "label": label, "id": value}
    return {"value": value}


def _columns(head: str, outputs: Predictions, classes: Sequence[Class]) -> dict[str, Any]:
    """The columns of a head's objects (`Result.to_pandas`)."""
    labels = as_array(outputs["labels"])
    columns: dict[str, Any] = {
        "head": np.full(len(labels), head, dtype=object),
        "name": np.array([classes[label].name for label in labels.tolist()], dtype=object),
        "label": labels,
    }
    if "scores" in outputs:
        columns["score"] = as_array(outputs["scores"])
    if "boxes" in outputs:
        columns |= dict(zip(("x1", "y1", "x2", "y2"), as_array(outputs["boxes"]).reshape(-1, 4).T, strict=True))
    return columns


def _detections(outputs: Predictions) -> dict[str, Any]:
    """Arguments of `supervision.Detections` for objects."""
    masks = {"mask": as_array(outputs["masks"]).astype(bool)} if "masks" in outputs else {}
    return {
        "xyxy": as_array(outputs["boxes"]).astype(np.float32).reshape(-1, 4),
        "confidence": as_array(outputs["scores"]).astype(np.float32),
        "class_id": as_array(outputs["labels"]).astype(int),
        **masks,
    }


def _class_regions(outputs: Predictions) -> dict[str, Any]:
    """Arguments of `supervision.Detections` for the classes of a label map."""
    return _masks_of(as_array(outputs["semantic"]))


def _segments(outputs: Predictions) -> dict[str, Any]:
    """Arguments of `supervision.Detections` for the segments of a panoptic map."""
    segments = _masks_of(as_array(outputs["panoptic"]))
    return {**segments, "class_id": segments["class_id"] // LABEL_DIVISOR}


def _masks_of(values: np.ndarray) -> dict[str, Any]:
    """Masks with bounding boxes of the values of a map; negative values are void."""
    from torchvision.ops import masks_to_boxes  # slow to import

    ids = np.unique(values[values >= 0])
    masks = values[None] == ids[:, None, None]  # (K, H, W)
    boxes = masks_to_boxes(torch.from_numpy(masks))
    return {"xyxy": boxes.numpy(), "mask": masks, "class_id": ids.astype(int)}
