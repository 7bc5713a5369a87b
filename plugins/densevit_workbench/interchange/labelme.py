"""Reads labelme data sets: one json per image, with polygons, rectangles, circles and masks.

Shapes with the same label and `group_id` are one object. Points and lines have no area and are left out.
"""

import base64
import io
import os
from collections.abc import Mapping
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools import mask as rle

from densevit.channels import RGB, Channels
from densevit.data.io.file_lookup import find_file
from densevit.data.io.folders import files_below
from densevit.data.io.image_opening import open_image
from densevit.data.io.images import read_image
from densevit.data.io.text_files import read_json
from densevit.errors import DataError, UnreadableFileError
from densevit_workbench.interchange.annotated import (
    TO_CONVERT,
    Annotated,
    AnnotatedImage,
    AnnotatedObject,
    absolute,
    below_root,
    bounds,
    box_in_image,
    file_inventory,
    folder_split,
    header_of,
    image_files,
    image_inventory,
    is_unread,
    number,
    object_inventory,
    polygon_area,
)
from densevit_workbench.interchange.faults import Faults, InvalidObjectError
from densevit_workbench.interchange.image_lookup import ImageLookup

_CIRCLE = 64  # points
_TOO_FEW = "of a wrong number of points"
_WITHOUT_AREA = ("point", "line", "linestrip", "points")
_KINDS = ("polygon", "rectangle", "oriented_rectangle", "rotation", "circle")  # rotation: X-AnyLabeling's


def read_labelme(source: Path, faults: Faults, channels: Channels | None = None) -> Annotated:
    """Reads a folder of json files. With folders train and val, only files of splits are read."""
    files = files_below(source, (".json",))
    documents = []
    for file in files:
        with faults.collecting():
            document = read_json(file)
            if isinstance(document, Mapping) and isinstance(document.get("shapes"), list):
                documents.append((file, document))
    if not documents:
        faults.check(source, {})
        raise DataError(f"{source}: no json file in labelme's format, with `shapes`, is found.")
    lookup = ImageLookup(source, image_files(source, channels, unread=True))
    wanted, used, shapes = [], [], 0
    splits: dict[str, list[AnnotatedImage]] = {}
    split_of = {file: folder_split(file, source) for file, _ in documents}
    has_splits = {"train", "val"} <= {*split_of.values()}
    for file, document in documents:
        if has_splits and not split_of[file]:
            continue
        with faults.collecting():
            path, content = _image_of(file, document, lookup, source, faults)
            wanted.append(path)
            faults.record_use(path, file)
            image, count = _image(file, document, path, content, faults, channels)
            splits.setdefault(split_of[file], []).append(image)
            used.append(file)
            shapes += count
    faults.check(source, splits)
    reasons = {
        absolute(file): "whose image is left out" if split_of[file] or not has_splits else "in no split"
        for file, _ in documents
    }
    skipped = {file: document for file, document in documents if file not in used}
    unused_shapes = [below_root(file, source) for file, document in skipped.items() for _ in document["shapes"]]
    inventories = (
        image_inventory(source, wanted, splits, "without a json file of a split", channels),
        file_inventory("json file", files, used, source, lambda file: reasons.get(file, "without labelme's `shapes`")),
        object_inventory("shape", shapes, unused_shapes, source, faults),
    )
    names = sorted({obj.category for images in splits.values() for image in images for obj in image.objects})
    if not names:
        raise DataError(
            f"{source}: none of {len(documents)} json files has a polygon, rectangle, circle or mask that can be used. "
            f"{inventories[-1]}."
        )
    return Annotated(tuple(names), splits, inventories=inventories)


def _image_of(
    file: Path, document: Mapping[str, Any], lookup: ImageLookup, source: Path, faults: Faults
) -> tuple[Path, bytes | None]:
    """Returns the image of a json file, and its content if the json contains it.

    Found by the path imagePath, or next to the json by the name of imagePath or the json, or as the only image of this
    name.
    """
    name = str(document.get("imagePath") or "")
    name_on_disk = find_file(file.parent, name, outside_paths=True) if name else None
    if name_on_disk is not None:
        faults.check_place(f"{file}: imagePath", file.parent / name_on_disk, source)
        return Path(os.path.normpath(file.parent / name_on_disk)), None
    path = lookup.named(file, name) or lookup.beside(file, name)
    if path is None and document.get("imageData"):
        try:
            content = base64.b64decode(document["imageData"])
        except (TypeError, ValueError) as error:
            raise UnreadableFileError(f"{file}: `imageData` is not base64 text: {error}.") from None
        return file.with_suffix(Path(name).suffix or ".png"), content
    path = path or lookup.in_layout(file, name) or lookup.unique(file, file.name, name)
    if path is None:
        raise UnreadableFileError(f"{file}: its image {name or file.stem} does not exist, and it has no `imageData`.")
    return path, None


def _image(
    file: Path,
    document: Mapping[str, Any],
    path: Path,
    content: bytes | None,
    faults: Faults,
    channels: Channels | None,
) -> tuple[AnnotatedImage, int]:
    """Returns an image, and the number of shapes in its objects."""
    if content is not None:
        height, width = read_image(content, channels or RGB, name=f"{file}: imageData").shape[:2]
    elif is_unread(path):
        raise UnreadableFileError(f"{file}: its image {path} is {TO_CONVERT}.")
    else:
        height, width = header_of(path, channels).upright_size
    stated_size = (document.get("imageHeight") or height, document.get("imageWidth") or width)
    if stated_size != (height, width):
        raise DataError(
            f"{file} is for an image of {stated_size[1]} x {stated_size[0]} pixels; {path} has {width} x {height}."
        )
    parts = []
    for index, shape in enumerate(document["shapes"]):
        if not isinstance(shape, Mapping):
            raise DataError(f"{file}: shape {index + 1} is not an object with label and points.")
        shape_type = shape.get("shape_type")
        label = " ".join(str(shape.get("label") or "").split())
        if shape_type in _WITHOUT_AREA:
            faults.skip(f"of the type {shape_type}, which has no area", [f"{file}, shape {index + 1} ({label})"])
            continue
        if not label:
            raise DataError(f"{file}: shape {index + 1} has no label.")
        group = shape.get("group_id")
        parts.append(((label, index if group is None else f"group {group}"), shape))
    parts.sort(key=lambda part: str(part[0]))
    grouped = [
        (key[0], [shape for _, shape in group_shapes]) for key, group_shapes in groupby(parts, key=lambda part: part[0])
    ]
    objects, count = [], 0
    for label, group_shapes in grouped:
        with faults.collecting():
            try:
                objects.append(_object(label, group_shapes, (height, width), str(file)))
            except InvalidObjectError as error:
                error.count = len(group_shapes)
                raise
            count += len(group_shapes)
    return AnnotatedImage(path, height, width, tuple(objects), content), count


def _object(label: str, shapes: list[Mapping[str, Any]], size: tuple[int, int], where: str) -> AnnotatedObject:
    """Joins the shapes of a group to one object."""
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
        box = box_in_image((x, y, w, h), size, where)
        return AnnotatedObject(label, box, segmentation, area=float(mask.sum()))
    polygons = [_polygon(shape, where) for shape in shapes]
    area = sum(map(polygon_area, polygons))
    box = box_in_image(bounds(np.concatenate(polygons)), size, where)
    return AnnotatedObject(label, box, [polygon.ravel().tolist() for polygon in polygons], area=area)


def _polygon(shape: Mapping[str, Any], where: str) -> np.ndarray:
    """The outline of a shape, points (N, 2)."""
    points = _points(shape, where)
    shape_type = shape.get("shape_type") or "polygon"
    if shape_type == "rectangle" and len(points) == 2:
        (x0, y0), (x1, y1) = points
        return np.array([[x0, y0], [x1, y0], [x1, y1], [x0, y1]])
    if shape_type == "circle" and len(points) == 2:
        angles = np.arange(_CIRCLE) * (2 * np.pi / _CIRCLE)
        radius = float(np.hypot(*(points[1] - points[0])))
        return np.asarray(points[0] + radius * np.stack([np.cos(angles), np.sin(angles)], axis=1))
    if shape_type not in _KINDS:
        raise DataError(f"{where}: its shape_type is {shape_type!r}; expected {', '.join(_KINDS)} or mask.")
    if len(points) < 3 or shape_type == "circle":
        raise InvalidObjectError(
            where, f"a {shape_type} of {len(points)} points; expected a polygon of 3 or more.", _TOO_FEW
        )
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
