"""The result of a prediction, one type for all heads, and its formats: drawing, point cloud, JSON, pandas,
supervision."""

import importlib
import io
import json
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from densevit.channels import RGB, Channels
from densevit.data.io.channel_files import as_rgb
from densevit.data.io.images import read_image
from densevit.drawing.display import display
from densevit.drawing.draw import draw
from densevit.drawing.point_cloud import write_ply
from densevit.errors import DensevitError
from densevit.interfaces import DEFAULT_THRESHOLD, Class, Predictions, TargetType
from densevit.paths import user_path
from densevit.targets.object_targets import InstanceMasks
from densevit.targets.run_length_masks import RunLengthMasks
from densevit.targets.types import TargetTypes, above_threshold, as_array

if TYPE_CHECKING:
    import pandas
    import supervision

PANOPTIC_BASE = 1000  # a panoptic id is class index * 1000 + number of the instance
_NAMED = {"names": "labels", "class_name": "image_class"}  # the properties with names of classes


class Result(Mapping[str, Any]):
    """The predictions of one or several heads for one image, in pixels of the original image, on the CPU.

    The attributes `boxes` (N, 4) xyxy, `scores`, `labels`, `names`, `masks` (N, H, W), `semantic`, `panoptic`, `depth`,
    `image_class` (), `class_name`, ... are the predictions of the head that has them. `maps` has all maps by name,
    `heads` the result of each head.

    As a mapping, a result of one head contains its predictions: `result["boxes"]`. A result of several heads contains
    their results: `result["segmentation"].semantic`.

    image: (H, W, C) of these channels, or the file to read. predictions, classes: those of each head.
    threshold: the score threshold of objects, for all heads or by head; None, or a head without one: all objects are
    kept. types: the target types of each head's keys that have options (`Head.target_types`). path: the image file, the
    video, or the URL; None if the image was given as pixels or bytes. frame: the number in the video, from 0; None for
    an image.
    """

    boxes: Tensor
    scores: Tensor
    labels: Tensor
    masks: Tensor
    semantic: Tensor
    panoptic: Tensor
    depth: Tensor
    inverse_depth: Tensor
    image_class: Tensor
    image_score: Tensor
    class_scores: Tensor

    def __init__(
        self,
        image: np.ndarray | str | os.PathLike[str],
        size: tuple[int, int],
        predictions: Mapping[str, Predictions],
        classes: Mapping[str, Sequence[Class]],
        threshold: float | Mapping[str, float] | None = None,
        types: Mapping[str, Mapping[str, TargetType] | None] | None = None,
        path: str | os.PathLike[str] | None = None,
        frame: int | None = None,
        channels: Channels = RGB,
    ) -> None:
        self.path, self.frame, self._channels = path, frame, channels
        self._image, self.size, self.classes = image, size, classes
        by_head = threshold if isinstance(threshold, Mapping) else dict.fromkeys(predictions, threshold)
        self.thresholds = {head: score for head, score in by_head.items() if score is not None}
        self.types = {head: TargetTypes((types or {}).get(head)) for head in predictions}
        self._predictions = {
            head: above_threshold(found, self.thresholds.get(head), self.types[head])
            for head, found in predictions.items()
        }

    # ---- predictions ----

    @property
    def predictions(self) -> Mapping[str, Predictions]:
        """The predictions of each head, by its name."""
        return self._predictions

    @property
    def heads(self) -> "dict[str, Result]":
        """The result of each head, by its name."""
        return {name: self._of(name) for name in self._predictions}

    @property
    def names(self) -> list[str]:
        """The class name of each object."""
        head = self._head_of("labels")
        return [self.classes[head][label].name for label in self._predictions[head]["labels"].tolist()]

    @property
    def class_name(self) -> str:
        """The name of the image's class."""
        head = self._head_of("image_class")
        return self.classes[head][int(self._predictions[head]["image_class"])].name

    @property
    def maps(self) -> dict[str, Tensor]:
        """The predictions per pixel, (H, W) or (C, H, W), by name; HEAD/NAME if several heads predict one name."""
        maps = [
            (head, key, value)
            for head, found in self._predictions.items()
            for key, value in found.items()
            if key in self.types[head] and self.types[head][key].per == "pixel"
        ]
        count = Counter(key for _, key, _ in maps)
        return {key if count[key] == 1 else f"{head}/{key}": value for head, key, value in maps}

    def __getattr__(self, key: str) -> Any:
        if key.startswith("_"):
            raise AttributeError(key)
        key = _NAMED.get(key, key)  # after an AttributeError in a property
        return self._predictions[self._head_of(key)][key]

    def __dir__(self) -> list[str]:
        """Includes the predictions that are attributes, and the names of those that are class indices."""
        heads = Counter(key for found in self._predictions.values() for key in found)
        predicted = {key for key, count in heads.items() if count == 1}
        named = {name for name, key in _NAMED.items() if key in predicted}
        return sorted({*super().__dir__()} - _NAMED.keys() | predicted | named)

    def __getitem__(self, key: str) -> Any:
        if len(self._predictions) == 1:
            return next(iter(self._predictions.values()))[key]
        if key not in self._predictions:
            raise KeyError(key)
        return self._of(key)

    def __iter__(self) -> Iterator[str]:
        alone = len(self._predictions) == 1
        return iter(next(iter(self._predictions.values())) if alone else self._predictions)

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def __repr__(self) -> str:
        heads = [f"{head}: {', '.join(map(_shown, items.items()))}" for head, items in self._predictions.items()]
        return f"Result({self.size[0]}x{self.size[1]}; {'; '.join(heads)})"

    def _of(self, head: str) -> "Result":
        classes = {head: self.classes.get(head, ())}
        predictions = {head: self._predictions[head]}
        origin = (self.path, self.frame)
        return Result(
            self._image, self.size, predictions, classes, self.thresholds, self.types, *origin, self._channels
        )

    def _head_of(self, key: str) -> str:
        """Returns the head that predicts this key. Raises AttributeError unless there is exactly one."""
        heads = [head for head, found in self._predictions.items() if key in found]
        if len(heads) == 1:
            return heads[0]
        if heads:
            raise AttributeError(
                f"{key} is predicted by the heads {' and '.join(heads)}. Name one: result[{heads[0]!r}].{key}."
            )
        there = "; ".join(f"{head}: {', '.join(found)}" for head, found in self._predictions.items())
        raise AttributeError(f"no head predicts {key}. Predictions by head: {there}.")

    # ---- the image ----

    @property
    def image(self) -> np.ndarray:
        """The image as it is drawn, (H, W, 3) uint8, RGB. Each access reads it again if it was given as a file."""
        given = self._image
        return as_rgb(given if isinstance(given, np.ndarray) else read_image(given, self._channels), self._channels)

    def draw(self, threshold: float | None = None) -> Image.Image:
        """Draws a visualization as in `densevit predict`; those of several heads are side by side.

        threshold: the score threshold for drawing; None: that of `predict`; without one, 0.5.
        """
        image = self.image
        panels = []
        for head, found in self._predictions.items():
            lowest = self.thresholds.get(head, DEFAULT_THRESHOLD) if threshold is None else threshold
            classes = self.classes.get(head, ())
            panels.append(Image.fromarray(draw(image, found, classes, lowest, types=self.types[head])))
        canvas = Image.new("RGB", (sum(p.width for p in panels), max(p.height for p in panels)), (255, 255, 255))
        left = 0
        for panel in panels:
            canvas.paste(panel, (left, 0))
            left += panel.width
        return canvas

    def save(self, path: str | os.PathLike[str], threshold: float | None = None) -> None:
        """Writes the visualization in the format of the suffix (`.png`, `.jpg`, ...).

        threshold: the argument of `draw`. Raises DensevitError if the suffix names no format, or the file cannot be
        written.
        """
        suffix = (path := user_path(path)).suffix.lower()
        if Image.registered_extensions().get(suffix) not in Image.SAVE:
            raise DensevitError(
                f"{path}: the suffix {suffix!r} names no image format. Fix: name a file such as drawn.png or drawn.jpg."
            )
        try:
            self.draw(threshold).save(path)
        except OSError as error:
            raise DensevitError(f"{path}: the visualization cannot be written: {error.strerror or error}.") from None

    def show(self, threshold: float | None = None) -> None:
        """Shows the visualization below the cell of a notebook, else in the system's image viewer.

        threshold: the argument of `draw`. Raises DensevitError if no window can be opened.
        """
        if not display(self.draw(threshold)):
            raise DensevitError(
                "show(): no window can be opened, because there is no display or no image viewer. Fix: write the "
                "visualization to a file with result.save('drawn.png')."
            )

    def _repr_png_(self) -> bytes:
        """Returns the visualization, which Jupyter displays for a result at the end of a cell."""
        file = io.BytesIO()
        self.draw().save(file, "png")
        return file.getvalue()

    def write_ply(
        self,
        path: str | os.PathLike[str],
        focal: float | tuple[float, float],
        centre: tuple[float, float] | None = None,
    ) -> int:
        """Writes the predicted depth as a coloured point cloud, as `densevit predict --focal`. Returns the number of
        points.

        focal: focal length in pixels, for both axes or (fx, fy). centre: principal point (cx, cy); by default the
        centre of the image. Raises AttributeError unless exactly one head predicts `depth`.
        """
        return write_ply(user_path(path), as_array(self.depth), self.image, focal, centre)

    def to_json(self) -> str:
        """Converts the result to JSON text: `height`, `width`, and `heads` with an object for each head by its name.

        `objects` has an entry for each object: `name`, `label`, `score`, `box` (xyxy in pixels), `mask` as COCO's
        compressed run-length code, and other predictions per object. `semantic` and `panoptic` have an entry for each
        class or segment: `name`, `label`, `mask`, and the `id` of a segment. `image_class` has the `name` and `label`
        of the image's class. Floating-point maps, such as depth, are omitted.
        """
        heads = {
            head: _as_json(found, self.classes.get(head, ()), self.types[head])
            for head, found in self._predictions.items()
        }
        return json.dumps({"height": self.size[0], "width": self.size[1], "heads": heads}, ensure_ascii=False)

    def to_pandas(self) -> "pandas.DataFrame":
        """Converts the result to a table with one row per object: `head`, `name`, `label`, `score`, `x1`, `y1`, `x2`,
        `y2`.

        Raises DensevitError if pandas is not installed, and for a result without objects.
        """
        pandas = _imported("pandas", "to_pandas")
        heads = [head for head, found in self._predictions.items() if "labels" in found]
        if not heads:
            raise DensevitError(f"to_pandas() has one row per object; this result has no objects, only {self._keys()}.")
        tables = [pandas.DataFrame(_columns(head, self._predictions[head], self.classes[head])) for head in heads]
        return pandas.concat([table for table in tables if len(table)] or tables[:1], ignore_index=True)

    def to_supervision(self) -> "supervision.Detections":
        """Converts the result to `supervision.Detections`, with class names in its data.

        Objects become detections with scores, and masks if there are any; a label map becomes one detection with a mask
        per class. Raises DensevitError if supervision is not installed, and for other predictions.
        """
        supervision = _imported("supervision", "to_supervision")
        for key, convert in (("boxes", _detections), ("semantic", _class_regions)):
            heads = [head for head, found in self._predictions.items() if key in found]
            if len(heads) > 1:
                raise DensevitError(
                    f"The heads {' and '.join(heads)} predict {key}, but supervision.Detections supports only one. "
                    f"Fix: result[{heads[0]!r}].to_supervision()."
                )
            if heads:
                [head] = heads
                detections = convert(self._predictions[head])
                names = [self.classes[head][label].name for label in detections["class_id"]]
                return supervision.Detections(**detections, data={"class_name": np.array(names, dtype=str)})
        raise DensevitError(
            f"supervision.Detections supports objects or a label map; this result has only {self._keys()}."
        )

    def _keys(self) -> str:
        return ", ".join(key for found in self._predictions.values() for key in found)


@runtime_checkable
class SupportsText(Protocol):
    """A target type per image whose predictions `densevit predict` prints."""

    def text(self, value: Any, classes: Sequence[Class]) -> str | None:
        """A prediction as a few words; None: nothing is printed."""


def text_of(target: TargetType, value: Any, classes: Sequence[Class]) -> str | None:
    """A prediction as a few words, see `SupportsText`; None if its type has none."""
    return target.text(value, classes) if isinstance(target, SupportsText) else None


def text_of_image(result: Result) -> str:
    """The predictions per image as text, such as "cat 0.93"; empty if there are none."""
    texts = []
    for head, predictions in result.predictions.items():
        types = result.types[head]
        values = {
            key: as_array(value) for key, value in predictions.items() if key in types and types[key].per == "image"
        }
        found = (text_of(types[key], value, result.classes[head]) for key, value in values.items())
        texts.append(" ".join(filter(None, found)))
    return "; ".join(filter(None, texts))


def _imported(package: str, method: str) -> Any:
    try:
        return importlib.import_module(package)
    except ModuleNotFoundError:
        raise DensevitError(
            f"{method}() needs the package {package}, which is not installed: pip install {package}."
        ) from None


def _as_json(found: Predictions, classes: Sequence[Class], types: TargetTypes) -> dict[str, Any]:
    """Converts the predictions of a head to JSON values, see `Result.to_json`."""
    values: dict[str, Any] = {"objects": _objects(found, classes, types)} if "labels" in found else {}
    for key, value in found.items():
        per = types[key].per if key in types else "image"
        array = as_array(value)
        if key == "image_class":
            values[key] = {"name": text_of(types[key], array, classes), "label": int(array)}
        elif per == "image" and array.dtype.kind in "biufU":
            values[key] = array.tolist()
        elif per == "pixel" and array.ndim == 2 and array.dtype.kind in "biu":
            values[key] = _regions(key, array, classes)
    return values


def _objects(found: Predictions, classes: Sequence[Class], types: TargetTypes) -> list[dict[str, Any]]:
    """Returns one entry per object."""
    entries = [{"name": classes[label].name, "label": label} for label in as_array(found["labels"]).tolist()]
    singular = {"scores": "score", "boxes": "box", "masks": "mask"}
    for key, value in found.items():
        if key != "labels" and key in types and types[key].per == "object":
            array = as_array(value)
            codes = types[key].encode(array, classes) if key == "masks" else []
            rows = [code["segmentation"] for code in codes] if key == "masks" else array.tolist()
            for entry, row in zip(entries, rows, strict=True):
                entry[singular.get(key, key)] = row
    return entries


def _regions(key: str, values: np.ndarray, classes: Sequence[Class]) -> list[dict[str, Any]]:
    """Returns one entry with a mask per value in an integer map (H, W); negative values are void."""
    ids = [value for value in np.unique(values).tolist() if value >= 0]
    codes = InstanceMasks().encode(RunLengthMasks.from_ids(values, np.array(ids, int)), classes)
    return [
        {**_region(key, value, classes), "mask": code["segmentation"]} for value, code in zip(ids, codes, strict=True)
    ]


def _region(key: str, value: int, classes: Sequence[Class]) -> dict[str, Any]:
    if key == "semantic":
        return {"name": classes[value].name, "label": value}
    if key == "panoptic":
        label = value // PANOPTIC_BASE
        return {"name": classes[label].name, "label": label, "id": value}
    return {"value": value}


def _columns(head: str, found: Predictions, classes: Sequence[Class]) -> dict[str, Any]:
    """Returns the columns of a table of a head's objects, see `Result.to_pandas`."""
    labels = as_array(found["labels"])
    columns: dict[str, Any] = {
        "head": np.full(len(labels), head, dtype=object),
        "name": np.array([classes[label].name for label in labels.tolist()], dtype=object),
        "label": labels,
    }
    if "scores" in found:
        columns["score"] = as_array(found["scores"])
    if "boxes" in found:
        columns |= dict(zip(("x1", "y1", "x2", "y2"), as_array(found["boxes"]).reshape(-1, 4).T, strict=True))
    return columns


def _detections(found: Predictions) -> dict[str, Any]:
    """Returns the objects as the arguments of `supervision.Detections`."""
    masks = {"mask": as_array(found["masks"]).astype(bool)} if "masks" in found else {}
    return {
        "xyxy": as_array(found["boxes"]).astype(np.float32).reshape(-1, 4),
        "confidence": as_array(found["scores"]).astype(np.float32),
        "class_id": as_array(found["labels"]).astype(int),
        **masks,
    }


def _class_regions(found: Predictions) -> dict[str, Any]:
    """Returns the classes of a label map as the arguments of `supervision.Detections`: masks with bounding boxes."""
    from torchvision.ops import masks_to_boxes  # late: it takes time to import

    labels = as_array(found["semantic"])
    ids = np.unique(labels)
    masks = labels[None] == ids[:, None, None]  # (K, H, W)
    boxes = masks_to_boxes(torch.from_numpy(masks))
    return {"xyxy": boxes.numpy(), "mask": masks, "class_id": ids.astype(int)}


def _shown(item: tuple[str, Any]) -> str:
    key, value = item
    return f"{key} {tuple(value.shape)}" if hasattr(value, "shape") else key
