"""Reads labelme data sets: one json per image, with polygons, rectangles, circles and masks.

Shapes with the same label and `group_id` are one object. Points and lines have no area and are left out, with one
warning.
"""

import base64
import io
import json
import warnings
from collections.abc import Mapping
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools import mask as rle

from densevit.data.io.file_errors import check_regular
from densevit.data.io.images import decode_image
from densevit.data.io.large_images import open_image
from densevit.errors import DataError, UnreadableFileError
from densevit_workbench.interchange.annotated import (
    Annotated,
    AnnotatedImage,
    AnnotatedObject,
    bounds,
    number,
    polygon_area,
    shown_size,
)
from densevit_workbench.interchange.faults import Faults

_SPLITS = {"train": ("train",), "val": ("val", "valid", "validation"), "test": ("test",)}
_CIRCLE = 64  # points
_WITHOUT_AREA = ("point", "line", "linestrip", "points")


def read_labelme(source: Path, faults: Faults) -> Annotated:
    """Reads a folder of json files beside their images; folders train and val are splits."""
    documents = []
    for file in sorted(source.rglob("*.json")):
        with faults.collecting():
            document = _document(file)
            if "shapes" in document:
                documents.append((file, document))
    if not documents:
        faults.check(source, {})
        raise DataError(f"{source}: no json file in labelme's format, with `shapes`, is found.")
    left_out = 0
    splits: dict[str, list[AnnotatedImage]] = {}
    for file, document in documents:
        with faults.collecting():
            image, skipped = _image(file, document, source, faults)
            left_out += skipped
            parts = file.relative_to(source).parts[:-1]
            split = next((split for split, names in _SPLITS.items() if any(name in parts for name in names)), "")
            splits.setdefault(split, []).append(image)
    faults.check(source, splits)
    if left_out:
        warnings.warn(f"{source}: points and lines, which have no area, are left out: {left_out:,}.", stacklevel=2)
    names = sorted({one.category for images in splits.values() for image in images for one in image.objects})
    if not names:
        raise DataError(f"{source}: none of {len(documents)} json files has a polygon, rectangle, circle or mask.")
    return Annotated(tuple(names), splits)


def _document(file: Path) -> Mapping[str, Any]:
    check_regular(file)
    try:
        document = json.loads(file.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{file} is not valid json: {error}.") from None
    return document if isinstance(document, Mapping) else {}


def _image(file: Path, document: Mapping[str, Any], source: Path, faults: Faults) -> tuple[AnnotatedImage, int]:
    """Returns an image, and the number of shapes without area."""
    name = str(document.get("imagePath") or "").replace("\\", "/")
    path, content = file.parent / name, None
    faults.check_place(f"{file}: imagePath", path, source)
    if name and path.is_file():
        height, width = shown_size(path)
    elif document.get("imageData"):
        try:
            content = base64.b64decode(document["imageData"])
        except (TypeError, ValueError) as error:
            raise UnreadableFileError(f"{file}: `imageData` is not base64 text: {error}.") from None
        path = file.with_suffix(Path(name).suffix or ".png")
        height, width = decode_image(content, f"{file}: imageData").shape[:2]
    else:
        raise UnreadableFileError(f"{file}: its image {path} does not exist, and it has no `imageData`.")
    given = (document.get("imageHeight") or height, document.get("imageWidth") or width)
    if given != (height, width):
        raise DataError(f"{file} is for an image of {given[1]} x {given[0]} pixels; {path} has {width} x {height}.")
    shapes = [shape for shape in document["shapes"] if shape.get("shape_type") not in _WITHOUT_AREA]
    parts = []
    for place, shape in enumerate(shapes):
        label = " ".join(str(shape.get("label") or "").split())
        if not label:
            raise DataError(f"{file}: shape {place} has no label.")
        group = shape.get("group_id")
        parts.append(((label, place if group is None else f"group {group}"), shape))
    parts.sort(key=lambda part: str(part[0]))
    grouped = [(key[0], [shape for _, shape in ones]) for key, ones in groupby(parts, key=lambda part: part[0])]
    objects = []
    for label, ones in grouped:
        with faults.collecting():
            objects.append(_object(label, ones, (height, width), str(file)))
    return AnnotatedImage(path, height, width, tuple(objects), content), len(document["shapes"]) - len(shapes)


def _object(label: str, shapes: list[Mapping[str, Any]], size: tuple[int, int], where: str) -> AnnotatedObject:
    """Returns one object of all shapes of a group."""
    where = f"{where}: {label}"
    if any(shape.get("shape_type") == "mask" for shape in shapes):
        mask = np.zeros(size, np.uint8)
        for shape in shapes:
            if shape.get("shape_type") != "mask":
                raise DataError(
                    f"{where}: a mask and a {shape.get('shape_type')} have the same group_id; use one kind."
                )
            _paste(mask, shape, where)
        code = rle.encode(np.asfortranarray(mask))
        segmentation = {"size": list(size), "counts": code["counts"].decode()}
        x, y, w, h = rle.toBbox(code).tolist()
        return AnnotatedObject(label, (x, y, w, h), segmentation, area=float(mask.sum()))
    polygons = [_polygon(shape, where) for shape in shapes]
    area = sum(map(polygon_area, polygons))
    return AnnotatedObject(label, bounds(np.concatenate(polygons)), [p.ravel().tolist() for p in polygons], area=area)


def _polygon(shape: Mapping[str, Any], where: str) -> np.ndarray:
    """Returns the points (N, 2) of a shape's outline."""
    points = _points(shape, where)
    kind = shape.get("shape_type") or "polygon"
    if kind == "rectangle" and len(points) == 2:
        (x0, y0), (x1, y1) = points
        return np.array([[x0, y0], [x1, y0], [x1, y1], [x0, y1]])
    if kind == "circle" and len(points) == 2:
        angles = np.arange(_CIRCLE) * (2 * np.pi / _CIRCLE)
        radius = float(np.hypot(*(points[1] - points[0])))
        return np.asarray(points[0] + radius * np.stack([np.cos(angles), np.sin(angles)], axis=1))
    if kind not in ("polygon", "rectangle", "oriented_rectangle") or len(points) < 3:
        raise DataError(f"{where}: a {kind} of {len(points)} points; expected a polygon of 3 or more.")
    return points


def _points(shape: Mapping[str, Any], where: str) -> np.ndarray:
    points = shape.get("points")
    if not isinstance(points, list) or not all(isinstance(point, list) and len(point) == 2 for point in points):
        raise DataError(f"{where}: its points are not a list of [x, y].")
    return np.array([[number(value, where) for value in point] for point in points]).reshape(-1, 2)


def _paste(mask: np.ndarray, shape: Mapping[str, Any], where: str) -> None:
    """Adds a shape's mask, a base64 PNG of the box between its two points."""
    try:
        with open_image(io.BytesIO(base64.b64decode(shape["mask"]))) as image:
            if image.width > mask.shape[1] or image.height > mask.shape[0]:
                sizes = f"{image.width} x {image.height} pixels, its image {mask.shape[1]} x {mask.shape[0]}"
                raise DataError(f"{where}: its mask has {sizes}.")
            pixels = np.asarray(image.convert("L")) > 0
    except DataError:
        raise
    except Exception as error:  # KeyError, binascii.Error and Pillow's
        raise DataError(f"{where}: its mask cannot be read: {error}.") from None
    left, top = np.rint(_points(shape, where)[0]).astype(int).tolist()
    part = mask[top : top + pixels.shape[0], left : left + pixels.shape[1]]
    part |= pixels[: part.shape[0], : part.shape[1]].astype(np.uint8)
