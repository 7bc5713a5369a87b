"""The result of a prediction, one type for all heads, with its drawing and export formats."""

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
from densevit.targets.objects import InstanceMasks
from densevit.targets.run_length_masks import RunLengthMasks
from densevit.targets.types import TargetTypes, above_threshold, as_array

if TYPE_CHECKING:
    import pandas
    import supervision

PANOPTIC_BASE = 1000  # a panoptic id is class index * 1000 + instance number
_NAMED = {"names": "labels", "class_name": "image_class"}  # properties that name classes


class Result(Mapping[str, Any]):
    """The predictions of one or several heads for one image, in pixels of the original image, on the CPU.

    The attributes `boxes` (N, 4) xyxy, `scores`, `labels`, `names`, `masks` (N, H, W), `semantic`, `panoptic`, `depth`,
    `image_class` (), `class_name`, ... are the predictions of the head that has them. `maps` contains all maps by name,
    `heads` the result of each head.

    As a mapping, a result of one head contains its predictions: `result["boxes"]`. A result of several heads contains
    their results: `result["segmentation"].semantic`.

    image: (H, W, C) with these channels, or a file. predictions, classes: by head. threshold: the score threshold of
    objects, for all heads or by head; None, or a head without a threshold: keeps all objects. types: by head, the
    target types of keys that have options (`Head.target_types`). path: the image file, the video, or the URL; None for
    pixels or bytes. frame: the number in the video, from 0; None for an image.
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
            head: above_threshold(outputs, self.thresholds.get(head), self.types[head])
            for head, outputs in predictions.items()
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
            for head, outputs in self._predictions.items()
            for key, value in outputs.items()
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
        """Includes predictions, and class names of predictions that are class indices."""
        heads = Counter(key for outputs in self._predictions.values() for key in outputs)
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
        """The head that predicts a key. Raises AttributeError unless there is exactly one."""
        heads = [head for head, outputs in self._predictions.items() if key in outputs]
        if len(heads) == 1:
            return heads[0]
        if heads:
            raise AttributeError(
                f"{key} is predicted by the heads {' and '.join(heads)}. Name one: result[{heads[0]!r}].{key}."
            )
        there = "; ".join(f"{head}: {', '.join(outputs)}" for head, outputs in self._predictions.items())
        raise AttributeError(f"no head predicts {key}. Predictions by head: {there}.")

    # ---- the image ----

    @property
    def image(self) -> np.ndarray:
        """The image for drawing, (H, W, 3) uint8, RGB. Each access reads a file again."""
        source = self._image
        pixels = source if isinstance(source, np.ndarray) else read_image(source, self._channels)
        return as_rgb(pixels, self._channels)

    def draw(self, threshold: float | None = None) -> Image.Image:
        """Draws a visualization as `densevit predict`, with several heads side by side.

        threshold: the score threshold for drawing; None: as in `predict`, or else 0.5.
        """
        image = self.image
        panels = []
        for head, outputs in self._predictions.items():
            lowest = self.thresholds.get(head, DEFAULT_THRESHOLD) if threshold is None else threshold
            classes = self.classes.get(head, ())
            panels.append(Image.fromarray(draw(image, outputs, classes, lowest, types=self.types[head])))
        canvas = Image.new("RGB", (sum(p.width for p in panels), max(p.height for p in panels)), (255, 255, 255))
        left = 0
        for panel in panels:
            canvas.paste(panel, (left, 0))
            left += panel.width
        return canvas

    def save(self, path: str | os.PathLike[str], threshold: float | None = None) -> None:
        """Writes the visualization in the format of the suffix (`.png`, `.jpg`, ...).

        threshold: as in `draw`. Raises DensevitError if the suffix names no format, or the file cannot be written.
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

        threshold: as in `draw`. Raises DensevitError if no window can be opened.
        """
        if not display(self.draw(threshold)):
            raise DensevitError(
                "show(): no window can be opened, because there is no display or no image viewer. Fix: write the "
                "visualization to a file with result.save('drawn.png')."
            )

    def _repr_png_(self) -> bytes:
        """The visualization as PNG, which Jupyter displays at the end of a cell."""
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
        """Converts the result to JSON text: `height`, `width`, and `heads` with an object per head.

        `objects`: an entry per object: `name`, `label`, `score`, `box` (xyxy in pixels), `mask` as COCO's compressed
        run-length code, and other predictions per object. `semantic`, `panoptic`: an entry per class or segment:
        `name`,
        `label`, `mask`, and the segment's `id`. `image_class`: `name` and `label` of the image's class. Floating-point
        maps, such as depth, are omitted.
        """
        heads = {
            head: _as_json(outputs, self.classes.get(head, ()), self.types[head])
            for head, outputs in self._predictions.items()
        }
        return json.dumps({"height": self.size[0], "width": self.size[1], "heads": heads}, ensure_ascii=False)

    def to_pandas(self) -> "pandas.DataFrame":
        """Converts the result to a table with a row per object: `head`, `name`, `label`, `score`, `x1`, `y1`, `x2`,
        `y2`.

        Raises DensevitError if pandas is not installed, and for a result without objects.
        """
        pandas = _imported("pandas", "to_pandas")
        heads = [head for head, outputs in self._predictions.items() if "labels" in outputs]
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
            heads = [head for head, outputs in self._predictions.items() if key in outputs]
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
        return ", ".join(key for outputs in self._predictions.values() for key in outputs)


@runtime_checkable
class SupportsText(Protocol):
    """A target type per image whose predictions `densevit predict` prints."""

    def text(self, value: Any, classes: Sequence[Class]) -> str | None:
        """A prediction in a few words; None: prints nothing."""


def text_of(target: TargetType, value: Any, classes: Sequence[Class]) -> str | None:
    """`SupportsText.text` of a prediction; None for other target types."""
    return target.text(value, classes) if isinstance(target, SupportsText) else None


def text_of_image(result: Result) -> str:
    """The predictions per image as text, such as "cat 0.93"; "" without any."""
    texts = []
    for head, predictions in result.predictions.items():
        types = result.types[head]
        values = {
            key: as_array(value) for key, value in predictions.items() if key in types and types[key].per == "image"
        }
        words = (text_of(types[key], value, result.classes[head]) for key, value in values.items())
        texts.append(" ".join(filter(None, words)))
    return "; ".join(filter(None, texts))


def _imported(package: str, method: str) -> Any:
    try:
        return importlib.import_module(package)
    except ModuleNotFoundError:
        raise DensevitError(
            f"{method}() needs the package {package}, which is not installed: pip install {package}."
        ) from None


def _as_json(outputs: Predictions, classes: Sequence[Class], types: TargetTypes) -> dict[str, Any]:
    """Converts the predictions of a head to JSON values, see `Result.to_json`."""
    values: dict[str, Any] = {"objects": _objects(outputs, classes, types)} if "labels" in outputs else {}
    for key, value in outputs.items():
        per = types[key].per if key in types else "image"
        array = as_array(value)
        if key == "image_class":
            values[key] = {"name": text_of(types[key], array, classes), "label": int(array)}
        elif per == "image" and array.dtype.kind in "biufU":
            values[key] = array.tolist()
        elif per == "pixel" and array.ndim == 2 and array.dtype.kind in "biu":
            values[key] = _regions(key, array, classes)
    return values


def _objects(outputs: Predictions, classes: Sequence[Class], types: TargetTypes) -> list[dict[str, Any]]:
    """One entry per object."""
    entries = [{"name": classes[label].name, "label": label} for label in as_array(outputs["labels"]).tolist()]
    singular = {"scores": "score", "boxes": "box", "masks": "mask"}
    for key, value in outputs.items():
        if key != "labels" and key in types and types[key].per == "object":
            array = as_array(value)
            codes = types[key].encode(array, classes) if key == "masks" else []
            rows = [code["segmentation"] for code in codes] if key == "masks" else array.tolist()
            for entry, row in zip(entries, rows, strict=True):
                entry[singular.get(key, key)] = row
    return entries


def _regions(key: str, values: np.ndarray, classes: Sequence[Class]) -> list[dict[str, Any]]:
    """One entry with a mask per value of an integer map (H, W); negative values are void."""
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


def _columns(head: str, outputs: Predictions, classes: Sequence[Class]) -> dict[str, Any]:
    """The columns of a head's objects, see `Result.to_pandas`."""
    labels = as_array(outputs["labels"])
    columns: dict[str, Any] = {
        "head": np.full(len(labels), head, dtype=object),
        "name": np.array([classes[label].name for label in labels.tolist()], dtype=object),
        "label": labels,
    }
    if "scores" in outputs:
        columns["score"] = as_array(outputs["scores"])
    if "boxes" in outputs:
        columns |= dict(zip(("x1", "y1", "x2", "y2"), as_array(outputs["boxes"]).reshape(-1, 4).T, strict=True))
    return columns


def _detections(outputs: Predictions) -> dict[str, Any]:
    """Arguments of `supervision.Detections` for objects."""
    masks = {"mask": as_array(outputs["masks"]).astype(bool)} if "masks" in outputs else {}
    return {
        "xyxy": as_array(outputs["boxes"]).astype(np.float32).reshape(-1, 4),
        "confidence": as_array(outputs["scores"]).astype(np.float32),
        "class_id": as_array(outputs["labels"]).astype(int),
        **masks,
    }


def _class_regions(outputs: Predictions) -> dict[str, Any]:
    """Arguments of `supervision.Detections` for the classes of a label map: masks with bounding boxes."""
    from torchvision.ops import masks_to_boxes  # slow to import

    labels = as_array(outputs["semantic"])
    ids = np.unique(labels)
    masks = labels[None] == ids[:, None, None]  # (K, H, W)
    boxes = masks_to_boxes(torch.from_numpy(masks))
    return {"xyxy": boxes.numpy(), "mask": masks, "class_id": ids.astype(int)}


def _shown(item: tuple[str, Any]) -> str:
    key, value = item
    return f"{key} {tuple(value.shape)}" if hasattr(value, "shape") else key
