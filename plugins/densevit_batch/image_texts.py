"""The texts that an image adds to files of all images: images.json, predictions.json and .csv, panoptic.json, or the
Parquet tables; and its predictions in a few words."""

import json
from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

from densevit.inference.result import Result
from densevit.interfaces import Class, Predictions
from densevit.targets.types import TargetTypes, as_array
from densevit_batch.image_file import ImageFile
from densevit_batch.image_writers import OutputFolder
from densevit_batch.prediction_columns import image_columns
from densevit_batch.prediction_entries import csv_text, json_entries, table_row
from densevit_batch.prediction_folder import Failed, Texts
from densevit_batch.prediction_tables import FAILED, IMAGES, OBJECTS, PREDICTED

ENTRIES = ".entries"  # the suffix for entries of maps with one file for all images


def image_texts(file: ImageFile, result: Result, output: OutputFolder, format: str) -> Texts:
    """Writes the maps of an image and returns its texts by file.

    images.json: id, file_name, width, height, and name, the path of the image's output files (drawn/NAME.jpg) without
    suffix. predictions.json: all objects in COCO's results format; predictions.csv: objects above the threshold.
    images.parquet: as images.json, with state and predictions per image; objects.parquet: the objects. With several
    heads, each has a subfolder for all files except the images.
    """
    height, width = result.size
    image = {"id": file.image_id, "file_name": file.file_name, "width": width, "height": height}
    entry: dict[str, Any] = {**image, "name": file.name}
    texts: dict[str, str] = {}
    for head, predictions in result.predictions.items():
        classes, types, folder = output.maps.classes[head], output.maps.types[head], output.maps.folder_of(head)
        prefix = "" if folder == output.path else f"{head}/"
        for key, annotated in output.maps.add(head, file.name, predictions, image).items():
            texts[f"{prefix}{key}{ENTRIES}"] = json.dumps(annotated)
        entries = json_entries(file.image_id, predictions, classes, types)
        if entries is not None:
            names = {c.file_id: c.name for c in classes}
            texts[f"{prefix}predictions.csv"] = csv_text(entries, names, output.thresholds[head], file.file_name)
            if format == "json":
                texts[f"{prefix}predictions.json"] = ",\n".join(map(json.dumps, entries))
            else:
                image_values = image_columns(predictions, classes, types)
                entry |= {f"{prefix}{key}": value for key, value in image_values.items()}
                objects = [
                    table_row(object_entry, names) for object_entry in (entries[:-1] if image_values else entries)
                ]
                texts |= {f"{prefix}{OBJECTS}": json.dumps(objects)} if objects or not image_values else {}
    texts |= {IMAGES: json.dumps([entry | {"state": PREDICTED}])} if format != "json" else {}
    return texts if format != "json" else texts | {"images.json": json.dumps(entry)}


def failed_texts(failed: Failed, format: str) -> Texts:
    """The texts of an unreadable image."""
    row = {"image": failed.file_name, "reason": failed.reason}
    texts = {"failed.csv": csv_text([row], {}, 0, failed.file_name)}
    entry = {"id": failed.image_id, "file_name": failed.file_name, "state": FAILED}
    return texts if format == "json" else texts | {IMAGES: json.dumps([entry])}


@runtime_checkable
class SupportsText(Protocol):
    """A target type per image whose predictions `densevit predict` prints."""

    def text(self, value: Any, classes: Sequence[Class]) -> str | None:
        """A prediction in a few words; None: prints nothing."""


def text_of_image(
    predictions: Mapping[str, Predictions], classes: Mapping[str, Sequence[Class]], types: Mapping[str, TargetTypes]
) -> str:
    """The predictions per image of all heads as text, such as "cat 0.93"; "" without any."""
    texts = []
    for head, outputs in predictions.items():
        per_image = [key for key in outputs if key in types[head] and types[head][key].per == "image"]
        words = (
            target.text(as_array(outputs[key]), classes[head])
            for key in per_image
            if isinstance(target := types[head][key], SupportsText)
        )
        texts.append(" ".join(filter(None, words)))
    return "; ".join(filter(None, texts))
