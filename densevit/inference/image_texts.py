"""What an image adds to the files of all images: images.json, predictions.json and .csv, panoptic.json; or the tables
of Parquet."""

import json
from typing import Any

from densevit.data.io.prediction_columns import image_columns
from densevit.data.io.prediction_entries import csv_text, json_entries, json_lines, table_row
from densevit.data.io.prediction_tables import FAILED, IMAGES, OBJECTS, PREDICTED
from densevit.inference.blocks import Failed, Texts
from densevit.inference.image_writers import OutputFolder, result_of
from densevit.inference.iterating import Predicted

ENTRIES = ".entries"  # the suffix of the entries of maps that have one file for all images


def image_texts(predicted: Predicted, output: OutputFolder, format: str) -> Texts:
    """Returns the texts of an image by file, after writing its maps.

    images.json: its id, file_name, width and height, and name, the path of its own files (drawn/NAME.jpg) without
    suffix. predictions.json: all objects in COCO's results format; predictions.csv: those above the threshold.
    images.parquet: the same as images.json, state, and the predictions per image; objects.parquet: the objects. With
    several heads, each has a subfolder with all but the images.
    """
    (height, width), file = result_of(predicted).size, predicted.image
    image = {"id": file.image_id, "file_name": file.file_name, "width": width, "height": height}
    entry: dict[str, Any] = {**image, "name": file.name}
    texts: dict[str, str] = {}
    for head, found in result_of(predicted).predictions.items():
        classes, types, folder = output.maps.classes[head], output.maps.types[head], output.maps.folder_of(head)
        prefix = "" if folder == output.path else f"{head}/"
        for key, annotated in output.maps.add(head, file.name, found, image).items():
            texts[f"{prefix}{key}{ENTRIES}"] = json.dumps(annotated)
        entries = json_entries(file.image_id, found, classes, types)
        if entries is not None:
            names = {c.file_id: c.name for c in classes}
            texts[f"{prefix}predictions.csv"] = csv_text(entries, names, output.thresholds[head], file.file_name)
            if format == "json":
                texts[f"{prefix}predictions.json"] = json_lines(entries)
            else:
                of_image = image_columns(found, classes, types)
                entry |= {f"{prefix}{key}": value for key, value in of_image.items()}
                objects = [table_row(one, names) for one in (entries[:-1] if of_image else entries)]
                texts |= {f"{prefix}{OBJECTS}": json.dumps(objects)} if objects or not of_image else {}
    texts |= {IMAGES: json.dumps([entry | {"state": PREDICTED}])} if format != "json" else {}
    return texts if format != "json" else texts | {"images.json": json.dumps(entry)}


def failed_texts(failed: Failed, format: str) -> Texts:
    """Returns the texts of an image that cannot be read."""
    row = {"image": failed.file_name, "reason": failed.reason}
    texts = {"failed.csv": csv_text([row], {}, 0, failed.file_name)}
    entry = {"id": failed.image_id, "file_name": failed.file_name, "state": FAILED}
    return texts if format == "json" else texts | {IMAGES: json.dumps([entry])}
