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
from densevit_batch.prediction_columns import as_lists, csv_text, encoded, image_columns, json_lines, table_columns
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
        objects = encoded(predictions, classes, types, "object")
        per_image = encoded(predictions, classes, types, "image")
        if not objects and not per_image:
            continue
        singles = {key: [value] for key, value in per_image.items()}
        table = as_lists(table_columns(objects, classes)) or singles
        table = {"image_id": [file.image_id] * len(next(iter(table.values()))), **table}
        texts[f"{prefix}predictions.csv"] = csv_text(file.file_name, table, output.thresholds[head])
        if format == "json":
            lines = [json_lines(file.image_id, columns) for columns in (objects, singles)]
            texts[f"{prefix}predictions.json"] = ",\n".join(filter(None, lines))
            continue
        entry |= {f"{prefix}{key}": value for key, value in image_columns(per_image).items()}
        if objects:
            texts[f"{prefix}{OBJECTS}"] = json.dumps(table)
    if format == "json":
        return texts | {"images.json": json.dumps(entry)}
    return texts | {IMAGES: _row({**entry, "state": PREDICTED})}


def failed_texts(failed: Failed, format: str) -> Texts:
    """The texts of an unreadable image."""
    texts = {"failed.csv": csv_text(failed.file_name, {"reason": [failed.reason]})}
    entry = {"id": failed.image_id, "file_name": failed.file_name, "state": FAILED}
    return texts if format == "json" else texts | {IMAGES: _row(entry)}


def _row(values: Mapping[str, Any]) -> str:
    """The text of a table with one row."""
    return json.dumps({name: [value] for name, value in values.items()})


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
