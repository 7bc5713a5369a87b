"""Reads Label Studio's JSON: a list of tasks, each with an image and annotated regions in per cent of its sides.

Rectangles become boxes, polygons and ellipses masks as well. Other regions, such as brush masks, are left out and
counted: Label Studio exports those in the format COCO (Label Studio's documentation, "Export annotations").
"""

from collections.abc import Mapping
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from densevit.channels import Channels
from densevit.data.io.file_lookup import local_names
from densevit.data.io.text_files import read_json
from densevit.errors import DataError, UnreadableFileError
from densevit_workbench.interchange.annotated import (
    Annotated,
    AnnotatedImage,
    AnnotatedObject,
    bounds,
    box_in_image,
    header_of,
    image_files,
    image_inventory,
    named,
    number,
    object_count,
    object_inventory,
    polygon_area,
    rotated_object,
)
from densevit_workbench.interchange.faults import Faults
from densevit_workbench.interchange.image_lookup import ImageLookup

_POINTS = 64  # of an ellipse


def read_label_studio(source: Path, faults: Faults, channels: Channels | None = None) -> Annotated:
    """Reads a json of tasks, or a folder with one, with the images below its folder: found by the path in the task, or
    by a unique name. Of several annotations of a task, the first that was not cancelled counts."""
    files = [source] if source.is_file() else sorted(source.rglob("*.json"))
    tasks = [(file, task) for file in files for task in _tasks(file)]
    if not tasks:
        raise DataError(f"{source}: no json with tasks of Label Studio is found.")
    root = source.parent if source.is_file() else source
    lookup = ImageLookup(root, image_files(root, channels, unread=True))
    images = faults.map(partial(_image, lookup=lookup, faults=faults, channels=channels), *zip(*tasks, strict=True))
    splits = {"": images}
    faults.check(source, splits)
    classes = sorted({obj.category for image in images for obj in image.objects})
    inventories = (
        image_inventory(root, [image.path for image in images], splits, "without a task", channels),
        object_inventory("region", object_count(splits), (), root, faults),
    )
    return Annotated(named(classes, f"{source}: labels"), splits, inventories=inventories)


def _tasks(file: Path) -> list[Mapping[str, Any]]:
    document = read_json(file)
    tasks = document if isinstance(document, list) else []
    return [task for task in tasks if isinstance(task, Mapping) and isinstance(task.get("data"), Mapping)]


def _image(
    file: Path, task: Mapping[str, Any], lookup: ImageLookup, faults: Faults, channels: Channels | None
) -> AnnotatedImage:
    where = f"{file}, task {task.get('id')}"
    texts = [text for text in task["data"].values() if isinstance(text, str)]
    path = next((path for text in texts if (path := _path(file, text, lookup)) is not None), None)
    if path is None:
        raise UnreadableFileError(f"{where}: no image of {', '.join(texts)} is found below {lookup.root}.")
    height, width = header_of(path, channels).upright_size
    annotations = task.get("annotations", task.get("completions")) or []
    valid = (entry.get("result", ()) for entry in annotations if not entry.get("was_cancelled"))
    objects = partial(_objects, sides=(width, height), task=where, faults=faults)
    return AnnotatedImage(path, height, width, tuple(chain.from_iterable(faults.map(objects, next(valid, ())))))


def _path(file: Path, text: str, lookup: ImageLookup) -> Path | None:
    """The image of a task: a path, a URL, or /data/local-files/?d=PATH; also without the hash of an upload."""
    names = [*local_names(text), text, *local_names(f"/{text}")]
    named_images = (lookup.named(file, name) for name in names)
    return next((path for path in named_images if path is not None), None) or lookup.unique(file, *names)


def _objects(region: Mapping[str, Any], sides: tuple[int, int], task: str, faults: Faults) -> list[AnnotatedObject]:
    """The object of a region, or none: a region without a label, or of a type without a box."""
    value, region_type, where = region.get("value", {}), str(region.get("type")), f"{task}, region {region.get('id')}"
    labels = value.get(region_type) or ()
    if not labels or region_type not in ("rectanglelabels", "polygonlabels", "ellipselabels"):
        if not region_type.endswith("labels") or "points" in value or "rle" in value:
            faults.skip(f"of the type {region_type}", [where])
        return []
    category, scale = str(labels[0]), np.array(sides) / 100
    values = {
        key: number(value[key], where) for key in ("x", "y", "width", "height", "radiusX", "radiusY") if key in value
    }
    degrees = number(value.get("rotation") or 0, where)
    if region_type == "rectanglelabels":
        x, y = np.array([values["x"], values["y"]]) * scale
        w, h = np.array([values["width"], values["height"]]) * scale
        if degrees:  # about the upper left corner
            turn = np.deg2rad(degrees)
            centre = (x, y) + np.array([w * np.cos(turn) - h * np.sin(turn), w * np.sin(turn) + h * np.cos(turn)]) / 2
            return [rotated_object(category, (centre[0] - w / 2, centre[1] - h / 2, w, h), degrees, sides[::-1], where)]
        return [AnnotatedObject(category, box_in_image((x, y, w, h), sides[::-1], where), source=where)]
    if region_type == "ellipselabels":
        angles, turn = np.arange(_POINTS) * (2 * np.pi / _POINTS), np.deg2rad(degrees)
        axes = np.array([values["radiusX"], values["radiusY"]]) * scale
        on_axes = np.stack([np.cos(angles), np.sin(angles)], axis=1) * axes
        points = on_axes @ np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]])
        points = points + np.array([values["x"], values["y"]]) * scale
    else:
        points = np.array([[number(x, where), number(y, where)] for x, y in value["points"]]) * scale
    points = points.clip(0, sides)
    box = box_in_image(bounds(points), sides[::-1], where)
    return [AnnotatedObject(category, box, [points.ravel().tolist()], area=polygon_area(points))]
