"""Reports all problems in a COCO json, for `densevit doctor`; `coco_annotations` stops at the first error."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from densevit.data.datasets.coco_annotations import Annotations, annotations_of
from densevit.data.datasets.coco_json import crowd_flag, images_of, is_identifier, is_number, parse_json, section_of
from densevit.data.datasets.coco_segmentations import parse
from densevit.data.datasets.examination import EXAMPLES, Examination, Severity, listed
from densevit.errors import DataError
from densevit.registry.options import shown

_MARGIN = 1.0  # pixels; a box that is farther outside is not a rounding error

Records = list[dict[str, Any]]


def read_examined(file: Path, masks: bool, examination: Examination) -> Annotations:
    """Returns the annotations of a json without invalid ones; reports all problems.

    masks: whether segmentations are read. Raises DataError if nothing can be read from the json.
    """
    document = parse_json(file, keep_segmentations=masks)
    try:
        read = annotations_of(file, document, masks)
    except DataError:
        read = annotations_of(file, _cleaned(file, document, masks, examination), masks)
    names, counts = np.unique(read.file_names, return_counts=True)
    twice = [f"{names[i].decode()}: {counts[i]} entries" for i in np.flatnonzero(counts > 1)]
    fix = "Merge their annotations into one entry: now each entry trains the objects of the others as background."
    examination.report("warning", "image files with several entries", twice, fix, of=len(read))
    if len(read.boxes):
        _examine_boxes(read, examination)
    return read


def _cleaned(file: Path, document: Mapping[str, Any], masks: bool, examination: Examination) -> dict[str, Any]:
    """Returns a json without invalid images and annotations, which are reported.

    Other errors, such as invalid categories, are left to the reader.
    """
    images = _good_images(file, section_of(file, document, "images"), examination)
    annotations = section_of(file, document, "annotations")
    categories = {one.get("id") for one in section_of(file, document, "categories") if is_identifier(one.get("id"))}
    names = {image["id"]: image["file_name"] for image in images}
    good = _good_annotations(file, annotations, names, categories, examination)
    if masks:
        sizes = {image["id"]: (image.get("height") or 0, image.get("width") or 0) for image in images}
        good = _with_masks(good, sizes, names, examination)
    cleaned = {**document, "images": images}
    return cleaned if document.get("annotations") is None else {**cleaned, "annotations": good}


def _good_images(file: Path, images: Records, examination: Examination) -> Records:
    good, wrong, repeated = [], [], []
    known: dict[Any, str] = {}
    for image in images:
        try:
            images_of(file, {"images": [image]})
        except DataError as error:
            wrong.append(str(error))
            continue
        name = image["file_name"]
        if image["id"] in known:
            repeated.append(f"id {image['id']!r}: {known[image['id']]} and {name}")
            continue
        known[image["id"]] = name
        good.append(image)
    of = len(images)
    examination.report("error", "invalid entries of `images`", wrong, "Correct them in the json.", of=of)
    examination.report("error", "duplicate image ids", repeated, "Give each image a different id.", of=of)
    return good


def _good_annotations(
    file: Path, records: Records, names: Mapping[Any, str], categories: set[Any], examination: Examination
) -> Records:
    """Returns the annotations that the reader accepts; reports the others by kind."""
    wrong = np.zeros(len(records), bool)

    def report(title: str, fix: str, is_wrong: Callable[[dict[str, Any]], bool], key: str) -> None:
        found = [i for i, record in enumerate(records) if not wrong[i] and is_wrong(record)]
        wrong[found] = True
        examples = [
            f"{file.name}: annotation {_name(records[i], i)} of image {_image(records[i], names)}: "
            f"{key} {shown(records[i].get(key)) if key in records[i] else 'is missing'}"
            for i in found[:EXAMPLES]
        ]
        examination.report("error", title, examples, fix, len(found), len(records))

    def not_in(key: str, known: Mapping[Any, Any] | set[Any]) -> Callable[[dict[str, Any]], bool]:
        def is_wrong(record: dict[str, Any]) -> bool:
            value = record.get(key)
            return not isinstance(value, int | str) or value not in known

        return is_wrong

    report("annotations with an invalid id", "Give each a different number.", lambda one: not _is_id(one), "id")
    some = listed(sorted(categories, key=str), 8)
    known: set[Any] = set()

    def is_duplicate(record: dict[str, Any]) -> bool:
        if "id" not in record or record["id"] not in known:
            known.add(record.get("id"))
            return False
        return True

    report("duplicate annotation ids", "Renumber them: pycocotools uses only the last one.", is_duplicate, "id")
    report("annotations of unknown images", "Remove them, or add the images.", not_in("image_id", names), "image_id")
    fix = f"Correct them, or add the categories. Known: {some}."
    report("annotations of unknown categories", fix, not_in("category_id", categories), "category_id")
    fix = "Expected [x, y, width, height], four finite numbers, in pixels."
    report("invalid boxes", fix, lambda one: not _is_box(one.get("bbox")), "bbox")
    report("invalid areas", "Expected 0 or more pixels, or no `area`.", lambda one: not _is_area(one), "area")
    report("invalid iscrowd", "Expected 0 or 1.", lambda one: not _is_crowd_flag(file, one), "iscrowd")
    return [record for record, bad in zip(records, wrong.tolist(), strict=True) if not bad]


def _with_masks(
    records: Records, sizes: Mapping[Any, tuple[int, int]], names: Mapping[Any, str], examination: Examination
) -> Records:
    """Returns the annotations with valid segmentations; reports the others."""
    good, wrong = [], []
    for i, record in enumerate(records):
        try:
            parse(record.get("segmentation"), sizes[record["image_id"]])
            good.append(record)
        except ValueError as error:
            wrong.append(f"annotation {_name(record, i)} of image {_image(record, names)}: its `segmentation` {error}")
    fix = "Expected polygons of three points or more, or run lengths (RLE) of the image's size."
    examination.report("error", "invalid segmentations", wrong, fix, of=len(records))
    return good


def _examine_boxes(read: Annotations, examination: Examination) -> None:
    """Reports boxes that are degenerate, outside of their image, or duplicates."""
    rows = np.repeat(np.arange(len(read)), np.diff(read.first))
    sides = read.sizes[:, ::-1].astype(np.float64)
    limits = np.where(sides > 0, sides, np.inf)[rows]  # (M, 2) width, height
    low, high = read.boxes[:, :2], read.boxes[:, 2:]
    flat = (high <= low).any(axis=1)
    away = ~flat & (np.clip(high, 0, limits) <= np.clip(low, 0, limits)).any(axis=1)
    partly = ~flat & ~away & ((low < -_MARGIN) | (high > limits + _MARGIN)).any(axis=1)

    def report(title: str, fix: str, found: np.ndarray, severity: Severity = "warning") -> None:
        def example(i: int) -> str:
            size = "" if np.isinf(limits[i]).any() else f" of {limits[i, 0]:.0f} x {limits[i, 1]:.0f}"
            box = ", ".join(f"{number:g}" for number in (*low[i], *(high[i] - low[i])))
            return f"annotation {read.ids[i]} of image {read.file_names[rows[i]].decode()}{size}: [{box}]"

        examples = [example(i) for i in found[:EXAMPLES].tolist()]
        examination.report(severity, title, examples, fix, len(found), len(rows))

    out = "They are left out in training, and missed in evaluation."
    report("boxes without area", f"{out} Correct or remove them.", np.flatnonzero(flat))
    report(
        "boxes outside of their image",
        f"{out} Were images resized, or width and height exchanged?",
        np.flatnonzero(away),
    )
    fix = "They are clipped in training. Were images resized? Or are boxes x1, y1, x2, y2 instead of x, y, w, h?"
    report("boxes partly outside of their image", fix, np.flatnonzero(partly))
    table = np.column_stack([rows, read.labels, read.boxes])
    order = np.lexsort(table.T[::-1])
    doubled = np.sort(order[1:][(table[order[1:]] == table[order[:-1]]).all(axis=1)])
    fix = "Remove all but one: each is an object for the loss, and in evaluation all but one are missed."
    report("duplicate boxes (same image, class and box)", fix, doubled)
    if len(rows) > 1 and (high <= 1 + 1e-6).all():
        fix = "Multiply them by the images' width and height: COCO's boxes are in pixels."
        report("boxes within 0 ... 1, as if relative to the image", fix, np.arange(len(rows)), "error")


def _is_id(record: Mapping[str, Any]) -> bool:
    return "id" not in record or is_identifier(record["id"])


def _is_box(box: Any) -> bool:
    return isinstance(box, list) and len(box) == 4 and all(map(is_number, box))


def _is_area(record: Mapping[str, Any]) -> bool:
    area = record.get("area")
    return area is None or (is_number(area) and area >= 0)


def _is_crowd_flag(file: Path, record: Mapping[str, Any]) -> bool:
    try:
        crowd_flag(file, record)
    except DataError:
        return False
    return True


def _name(record: Mapping[str, Any], position: int) -> str:
    return shown(record["id"]) if "id" in record else f"at position {position}"


def _image(record: Mapping[str, Any], names: Mapping[Any, str]) -> str:
    """Returns the image's file, or its id if the file is unknown."""
    name = record.get("image_id")
    return names.get(name, shown(name)) if isinstance(name, int | str) else shown(name)
