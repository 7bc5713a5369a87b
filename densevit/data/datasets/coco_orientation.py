"""Decides whether a COCO json's boxes are on upright images, rotated by EXIF, or on the pixels as they are stored.

The upright image of a photo with an EXIF orientation of 5 to 8 has its height and width exchanged. Programs write
either size: labelme annotates the upright image and writes its size; Label Studio annotates the upright image and
writes the stored size; programs that ignore EXIF annotate the stored pixels and write their size. The upright size is
therefore unambiguous, and the stored one is not.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from densevit.channels import Channels
from densevit.data.datasets.coco_json import images_of, is_number, lookup, parse_json, section_of
from densevit.data.datasets.coco_layouts import SplitFiles
from densevit.data.datasets.dataset_validation import Scan, for_each
from densevit.data.datasets.examination import Examination
from densevit.data.datasets.rotated_boxes import bounds_of, rotated_corners, rotation_of
from densevit.data.io.file_lookup import find_file
from densevit.data.io.images import image_header
from densevit.data.outside_paths import is_outside
from densevit.errors import DataError

Grid = Literal["upright", "stored"]

_MARGIN = 1.0  # pixels; a box that is less far outside fits


@dataclass(frozen=True)
class Reading:
    """The grid of a json's boxes, and the sentence about it; empty if it is unambiguous.

    decided: False if the boxes fit both grids, or contradict each other.
    """

    grid: Grid
    text: str = ""
    decided: bool = True


def turned(stored: np.ndarray, orientations: np.ndarray) -> np.ndarray:
    """Whether height and width differ between the stored and the upright image, (N,) bool. stored: (N, 2), their
    stored sizes. orientations: (N,), EXIF's."""
    return np.asarray((orientations >= 5) & (stored[:, 0] != stored[:, 1]))


def grids_of(
    given: np.ndarray, stored: np.ndarray, orientations: np.ndarray, grid: Grid
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the (N, 2) sizes of the annotated grids, and (N,) bool, whether an image is rotated by EXIF.

    given: (N, 2), the json's sizes; 0 if it has none. An image of which the json has the upright size is upright. Of
    all others, also of square images and of those with an orientation of 2 to 4, whose size does not tell, the
    annotations are on this grid.
    """
    has_upright_size = turned(stored, orientations) & (given == stored[:, ::-1]).all(axis=1)
    upright = has_upright_size | (orientations == 1) | (grid == "upright")
    return np.where((upright & (orientations >= 5))[:, None], stored[:, ::-1], stored), upright


def decide(
    ambiguous: int, without_size: int, count: int, first: str, boxes: Grid | None, evidence: "Iterator[Evidence]"
) -> Reading:
    """Returns the reading of a split.

    ambiguous: the number of its `count` images that are turned and have the stored size in the json. without_size:
    those that are turned and have no size there, whose boxes are taken as upright unless they fit only the stored
    image. first: the first of these images. boxes: the user's choice. evidence: the boxes of all jsons of the data set,
    so that train and val take the same reading; read only where it is needed.
    """
    if boxes is not None or not (ambiguous or without_size):
        return Reading(boxes or "upright")
    upright = stored = objects = 0
    for one in evidence:
        upright, stored, objects = upright + one.upright, stored + one.stored, objects + one.objects
    has_size = "the size of the stored pixels" if ambiguous else "no size"
    text = (
        f"EXIF rotates {ambiguous or without_size:,} of {count:,} images by 90 degrees (orientation 5 to 8; "
        f"first: {first}), and the json has {has_size}: the boxes may be on the upright image, as Label Studio's are, "
        "or on the stored pixels"
    )
    if stored and not upright:
        return Reading("stored", f"{text}. The boxes fit only the stored pixels: data.boxes=stored is used.")
    if not ambiguous:
        return Reading("upright")
    if upright and not stored:
        return Reading("upright", f"{text}. The boxes fit only the upright images: data.boxes=upright is used.")
    if not objects:
        return Reading("upright", f"{text}. None has objects; data.boxes=upright is used.")
    found = "The boxes fit both" if not upright else f"{upright:,} fit only the former, {stored:,} only the latter"
    fix = "Set data.boxes=upright or data.boxes=stored; densevit doctor draws both readings."
    return Reading("upright", f"{text}. {found}. {fix}", decided=False)


@dataclass(frozen=True)
class Evidence:
    """Numbers of objects in the turned images of a json, without those images that it gives the upright size.

    upright, stored: those that fit only one of the two grids.
    """

    objects: int
    upright: int
    stored: int


def evidence_of(jsons: Sequence[SplitFiles], outside_paths: bool, channels: Channels) -> Iterator[Evidence]:
    """Yields the evidence of each json that can be read, from boxes, polygons and run-length codes."""
    for files in jsons:
        with suppress(DataError):
            yield _evidence(files, outside_paths, channels)


def _evidence(files: SplitFiles, outside_paths: bool, channels: Channels) -> Evidence:
    document = parse_json(files.file, keep_segmentations=True)
    tolerant = Scan(examination=Examination(None))  # problems are reported when the split is built
    images = tolerant.read(images_of(files.file, document))
    stored, orientations = _headers(images.names, files, outside_paths, channels)
    unclear = turned(stored, orientations) & ~(images.sizes == stored[:, ::-1]).all(axis=1)
    records = section_of(files.file, document, "annotations")
    upright = only_stored = objects = 0
    for record, row in zip(records, lookup(records, "image_id", images.rows()).tolist(), strict=True):
        if row >= 0 and unclear[row]:
            height, width = stored[row].tolist()
            fits, fits_stored = (_fits(record, *size) for size in ((width, height), (height, width)))
            objects += 1
            upright += fits and not fits_stored
            only_stored += fits_stored and not fits
    return Evidence(objects, upright, only_stored)


def _fits(record: Mapping[str, Any], height: int, width: int) -> bool:
    """Whether box, polygons and the size of run lengths fit a grid, as far as they are valid."""
    box = np.array([_numbers(record.get("bbox"), 4) or (0.0, 0.0, 0.0, 0.0)])
    if degrees := rotation_of(record):
        box = bounds_of(rotated_corners(box, np.array([degrees])))
    x, y, w, h = box[0].tolist()
    segmentation = record.get("segmentation")
    if isinstance(segmentation, dict):
        size = segmentation.get("size")
        return [height, width] == size if isinstance(size, list) else True
    polygons = segmentation if isinstance(segmentation, list) else []
    points = [x + w, y + h, *(number for polygon in polygons for number in _numbers(polygon))]
    return max(points[::2]) <= width + _MARGIN and max(points[1::2]) <= height + _MARGIN


def _numbers(values: Any, count: int | None = None) -> list[float]:
    """Returns a list of numbers, of even or of this length; an empty list for anything else."""
    is_list = isinstance(values, list) and (len(values) == count if count else len(values) % 2 == 0)
    return values if is_list and all(map(is_number, values)) else []


def _headers(
    names: Sequence[str], files: SplitFiles, outside_paths: bool, channels: Channels
) -> tuple[np.ndarray, np.ndarray]:
    """Returns stored sizes (N, 2) and orientations (N,) of a json's images; 1 for files that cannot be read."""
    folder = files.image_folder(names)
    stored, orientations = np.ones((len(names), 2), np.int32), np.ones(len(names), np.uint8)

    def look(i: int) -> None:
        name = None if is_outside(names[i], folder) and not outside_paths else names[i]
        found = name and find_file(folder, name, outside_paths)
        if found:
            with suppress(DataError):
                stored[i], orientations[i] = image_header(folder / found, channels)

    for_each(len(names), look, "Reading EXIF orientations")
    return stored, orientations
