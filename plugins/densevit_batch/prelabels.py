"""Converts predictions to a COCO json with scores, which label tools import."""

import json
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from pycocotools import mask as rle

from densevit import registry
from densevit.atomic_io import atomic_file
from densevit.errors import DataError
from densevit.interfaces import Class
from densevit.model import unwrapped
from densevit.paths import user_path
from densevit.targets.mask_polygons import polygons_of
from densevit_batch.prediction_folder import check_model, saved_classes
from densevit_batch.prediction_tables import listed_images, object_files, read_entries

if TYPE_CHECKING:
    from densevit import DenseModel


class Prelabels(NamedTuple):
    """The number of written objects, their head and their score threshold."""

    objects: int
    head: str
    threshold: float


def prelabel(
    predictions: str | Path,
    model: "DenseModel",
    out: str | Path,
    threshold: float | None = None,
    source: str = "model",
    format: str = "coco",
) -> Prelabels:
    """Writes the objects in a folder of `densevit predict` as annotations.

    model: the model of the predictions, as from `load`; writes the objects of its first head with predictions.json or
    objects.parquet. threshold: the score threshold; None: the threshold from the model's validation, or 0.5. source:
    the model's name, for messages. format: "coco", or a plugin of the group "prelabels", such as "label-studio". out: a
    json; in COCO's format also a folder, which gets annotations/instances_train.json and images/, as Datumaro reads it.
    Masks become polygons for editing. Raises DensevitError for predictions of another model, and DataError for a folder
    without objects.

    Example:
        >>> from densevit.cli import main
        >>> main(["predict", "runs/detr_swin", "photos", "--out", "predicted", "--quiet"])
        0
        >>> densevit.prelabel("predicted", densevit.load("runs/detr_swin"), "prelabels.json").head
        'detection'
    """
    folder, out = user_path(predictions), user_path(out)
    model = unwrapped(model, "prelabel")
    check_model(folder, source, model.fingerprint())
    images = listed_images(folder)
    head, entries = _entries(folder, list(model.classes), images)
    lowest = model.default_thresholds[head] if threshold is None else threshold
    document = coco_document(images, entries, saved_classes(folder, model.classes)[head], lowest)
    content = document if format == "coco" else registry.load("prelabels", format)(document, model.fingerprint())
    file = out
    if format == "coco" and out.suffix.lower() != ".json":
        file = out / "annotations" / "instances_train.json"
        for parent in (file.parent, out / "images" / "train"):
            parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(file) as partial:
        partial.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
    return Prelabels(len(document["annotations"]), head, lowest)


def coco_document(
    images: Sequence[Mapping[str, Any]],
    entries: Sequence[Mapping[str, Any]],
    classes: Sequence[Class],
    threshold: float,
) -> dict[str, Any]:
    """Builds the COCO document. images: COCO's entries, with id, file_name, width and height. entries: the predictions
    in COCO's results format.

    File names are relative to the common folder of all images.
    """
    numbers = {image["id"]: number for number, image in enumerate(images, 1)}
    ids = [category.file_id for category in classes]
    names = _names_below([image["file_name"] for image in images])
    annotations: list[dict[str, Any]] = []
    for entry in entries:
        if not {"category_id", "bbox", "segmentation"} & entry.keys() or entry.get("score", 1.0) < threshold:
            continue
        image_id, category = entry.get("image_id"), entry.get("category_id")
        if category not in ids or image_id not in numbers:
            raise DataError(
                f"An object has the category_id {category!r} and the image_id {image_id!r}; expected a class of the "
                "model and a predicted image. Was the file edited? Fix: correct it, or predict again."
            )
        values = {key: value for key, value in entry.items() if key not in ("image_id", "segmentation")}
        values |= _shape(entry)
        if "bbox" not in values:
            continue  # an empty mask
        values["area"] = values.get("area", values["bbox"][2] * values["bbox"][3])
        if "keypoints" in values:
            values["num_keypoints"] = sum(score > 0 for score in values["keypoints"][2::3])
        named = {"id": len(annotations) + 1, "image_id": numbers[entry["image_id"]], "iscrowd": 0}
        annotations.append(named | values)
    return {
        "images": [
            {"id": numbers[image["id"]], "file_name": name} | {side: image[side] for side in ("width", "height")}
            for image, name in zip(images, names, strict=True)
        ],
        "annotations": annotations,
        "categories": [{"id": c.file_id, "name": c.name} for c in classes],
    }


def _names_below(files: Sequence[str]) -> list[str]:
    """Returns the paths of predicted images below their common folder. Raises DataError if two are the same."""
    paths = [PurePath(file) for file in files]
    paths = [path.relative_to(path.anchor) for path in paths]  # also of relative paths and URLs
    folder = os.path.commonpath([path.parent for path in paths]) if paths else ""
    names = [path.relative_to(folder).as_posix() for path in paths]
    count = Counter(names)
    twice = next((file for file, name in zip(files, names, strict=True) if count[name] > 1), None)
    if twice is not None:
        raise DataError(f"Two predicted images are called {twice}. Predict them in separate folders.")
    return names


def _shape(entry: Mapping[str, Any]) -> dict[str, Any]:
    """Polygons, area and box of an entry with a mask; empty without one."""
    code = entry.get("segmentation")
    if code is None:
        return {}
    mask = rle.decode({"size": code["size"], "counts": code["counts"].encode()})
    if not mask.any():
        return {}
    bbox = entry.get("bbox", rle.toBbox(rle.encode(np.asfortranarray(mask))).tolist())
    polygons = polygons_of(mask)
    return {**({"segmentation": polygons} if polygons else {}), "area": float(mask.sum()), "bbox": bbox}


def _entries(folder: Path, heads: Sequence[str], images: list[dict[str, Any]]) -> tuple[str, list[dict[str, Any]]]:
    """The first head with objects, and its entries."""
    for head in heads:
        files = object_files(folder, head)
        entries = [entry for file in files for entry in read_entries(file, images)]
        if files and (not entries or any("category_id" in entry for entry in entries)):
            return head, entries
    raise DataError(
        f"{folder}: has no predictions.json or objects.parquet with objects. Expected a folder written by `densevit "
        "predict` with a model that detects objects."
    )
