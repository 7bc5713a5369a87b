"""Label Studio's predictions: tasks with scores for its import, and the answers of an ML backend.

A region's coordinates are per cent of the image's sides; masks are polygons, or the run-length code of brush labels
(Label Studio's documentation, "Import pre-annotations").
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any, NamedTuple
from urllib.parse import quote
from xml.etree import ElementTree

import numpy as np

from densevit import Result
from densevit.errors import ConfigError
from densevit.targets.mask_polygons import polygons_of
from densevit_tools.regions import Region, regions_of

LOCAL_FILES = "/data/local-files/?d="
"""The address of images below Label Studio's document root."""
_TYPES = ("BrushLabels", "PolygonLabels", "RectangleLabels", "Choices")  # in order of preference for a mask
_MASK_TYPES = {"brushlabels", "polygonlabels"}
_RUN_BITS = (3, 4, 8, 16)  # sizes of a run's length


class Control(NamedTuple):
    """A tag of a labelling interface that takes regions of an image.

    type: that of its regions, such as "rectanglelabels". name: the tag's name. to_name: the name of the image's tag.
    key: the image's key in the data of a task. labels: the class names; empty: any class.
    """

    type: str
    name: str = "label"
    to_name: str = "image"
    key: str = "image"
    labels: frozenset[str] = frozenset()

    def label_of(self, name: str) -> str | None:
        """The label of a class: its name, or else the same in upper or lower case; None without one."""
        if not self.labels or name in self.labels:
            return name
        return next((label for label in sorted(self.labels) if label.casefold() == name.casefold()), None)


def controls_of(config: str) -> list[Control]:
    """Reads the controls of a labelling interface, its xml. Raises ConfigError without one that takes boxes, polygons,
    brush masks or choices of an image."""
    try:
        tags = [*ElementTree.fromstring(config).iter()]
    except ElementTree.ParseError as error:
        raise ConfigError(f"Label Studio's labelling interface is not valid xml: {error}.") from None
    images = {tag.get("name"): tag.get("value", "").lstrip("$") for tag in tags if tag.tag == "Image"}
    controls = [
        Control(
            tag.tag.lower(),
            tag.get("name", ""),
            tag.get("toName", ""),
            images[tag.get("toName")],
            frozenset(label.get("value", "") for label in tag.iter() if label.tag in ("Label", "Choice")),
        )
        for tag in sorted((tag for tag in tags if tag.tag in _TYPES), key=lambda tag: _TYPES.index(tag.tag))
        if tag.get("toName") in images
    ]
    if not controls:
        raise ConfigError(
            f"Label Studio's labelling interface has no {', '.join(_TYPES)} of an Image. Fix: add one with the model's "
            "classes."
        )
    return controls


def unmatched_names(controls: Sequence[Control], classes: Collection[str]) -> tuple[list[str], list[str]]:
    """The labels that are no class, and the classes that no control has a label for. classes: the model's."""
    labels = {label for control in controls for label in control.labels}
    labels_of = {name: {control.label_of(name) for control in controls} - {None} for name in classes}
    unused = labels.difference(*labels_of.values())
    return sorted(unused), sorted(name for name in classes if not labels_of[name])


def prediction(result: Result, controls: Sequence[Control], version: str) -> dict[str, Any]:
    """The prediction of a task: regions with scores, of classes with a label. version: the model's."""
    regions = [entry for region in regions_of(result) for entry in _entries(region, controls, result.size)]
    return _prediction(regions, version)


def tasks(document: Mapping[str, Any], version: str) -> list[dict[str, Any]]:
    """Tasks with predictions, of a COCO document with scores. version: the model's.

    Images are addresses of local files, by their names in the document. Objects with polygons have a region for each,
    others are rectangles.
    """
    names = {category["id"]: category["name"] for category in document["categories"]}
    regions: dict[int, list[dict[str, Any]]] = {image["id"]: [] for image in document["images"]}
    sizes = {image["id"]: (image["height"], image["width"]) for image in document["images"]}
    for entry in document["annotations"]:
        size, name, score = sizes[entry["image_id"]], names[entry["category_id"]], entry.get("score")
        outlines, (x, y, w, h) = entry.get("segmentation", ()), entry["bbox"]
        values = [_polygon(outline, size) for outline in outlines] or [_rectangle((x, y, x + w, y + h), size)]
        control = Control("polygonlabels" if outlines else "rectanglelabels")
        regions[entry["image_id"]] += [_entry(control, name, score, value, size) for value in values]
    return [
        {
            "data": {"image": LOCAL_FILES + quote(image["file_name"])},
            "predictions": [_prediction(regions[image["id"]], version)],
        }
        for image in document["images"]
    ]


def _prediction(regions: list[dict[str, Any]], version: str) -> dict[str, Any]:
    """regions get their numbers as ids. The score, for the order of tasks, is the mean of the regions'."""
    scores = [region["score"] for region in regions if "score" in region]
    result = [{"id": str(number), **region} for number, region in enumerate(regions, 1)]
    return {"model_version": version, "score": float(np.mean(scores)) if scores else 0.0, "result": result}


def _entries(region: Region, controls: Sequence[Control], size: tuple[int, int]) -> Iterator[dict[str, Any]]:
    """The entries of a region for the first control that takes it."""
    box, mask = region.box, region.mask
    types = {"choices"} if box is None else {"rectanglelabels"} | (set() if mask is None else _MASK_TYPES)
    for control in controls:
        label = control.label_of(region.name) if control.type in types else None
        if label is not None:
            break
    else:
        return
    values: list[dict[str, Any]] = [{}]
    if box is not None and control.type == "rectanglelabels":
        values = [_rectangle(box.tolist(), size)]
    elif mask is not None and control.type == "polygonlabels":
        values = [_polygon(outline, size) for outline in polygons_of(mask.astype(np.uint8))]
    elif mask is not None:
        values = [{"format": "rle", "rle": brush_code(mask)}]
    for value in values:
        yield _entry(control, label, region.score, value, size)


def _entry(
    control: Control, name: str, score: float | None, value: Mapping[str, Any], size: tuple[int, int]
) -> dict[str, Any]:
    """A region. value: its geometry, with coordinates of an image of `size` (h, w)."""
    sides = {"original_width": size[1], "original_height": size[0], "image_rotation": 0} if value else {}
    scores = {} if score is None else {"score": score}
    names = {"from_name": control.name, "to_name": control.to_name, "type": control.type}
    return {**names, **sides, **scores, "value": {**value, control.type: [name]}}


def _rectangle(box: Sequence[float], size: tuple[int, int]) -> dict[str, float]:
    x0, y0, x1, y1 = np.asarray(box) * 100 / (size[1], size[0], size[1], size[0])
    return {"x": float(x0), "y": float(y0), "width": float(x1 - x0), "height": float(y1 - y0), "rotation": 0}


def _polygon(outline: Sequence[float], size: tuple[int, int]) -> dict[str, Any]:
    return {"points": (np.reshape(outline, (-1, 2)) * 100 / (size[1], size[0])).tolist(), "closed": True}


def brush_code(mask: np.ndarray) -> list[int]:
    """Label Studio's run-length code of a mask (H, W) bool: the bytes of a bit string (label_studio_sdk,
    converter/brush.py).

    Its header is the number of values, 4 per pixel (RGBA), their bits, and four sizes of a length. Each run is 1, the
    index of a size, the length minus one, and the value.
    """
    flat = mask.ravel()
    edges = np.flatnonzero(np.diff(flat)) + 1
    begins = [0, *edges.tolist(), len(flat)]
    bits = [f"{4 * len(flat):032b}{8 - 1:05b}", *(f"{size - 1:04b}" for size in _RUN_BITS)]
    for begin, end in pairwise(begins):
        left = 4 * (end - begin)
        while left:
            run = min(left, 2 ** _RUN_BITS[-1])
            index = next(i for i, size in enumerate(_RUN_BITS) if run <= 2**size)
            bits.append(f"1{index:02b}{run - 1:0{_RUN_BITS[index]}b}{255 * int(flat[begin]):08b}")
            left -= run
    text = "".join(bits)
    text += "0" * (-len(text) % 8)
    return [int(text[i : i + 8], 2) for i in range(0, len(text), 8)]
