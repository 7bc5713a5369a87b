"""The result of a prediction, one type for all heads, with its drawing and export formats."""

import io
import json
import os
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from itertools import starmap
from typing import TYPE_CHECKING, Any

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
from densevit.errors import DensevitError, did_you_mean, head_names
from densevit.inference import result_formats
from densevit.interfaces import DEFAULT_THRESHOLD, Class, Predictions, TargetType
from densevit.paths import user_path
from densevit.targets.types import TargetTypes, above_threshold, as_array, with_objects

if TYPE_CHECKING:
    import pandas
    import supervision

_NAMED = {"names": "labels", "class_name": "image_class"}  # properties that name classes


class Result(Mapping[str, Any]):
    """The predictions of one or several heads for one image, in pixels of the original image, on the CPU.

    The attributes `boxes` (N, 4) xyxy, `scores`, `labels`, `names`, `masks` (N, H, W), `semantic`, `panoptic`, `depth`,
    `image_class` (), `class_name`, ... are the predictions of the head that has them. `maps` contains all maps by name,
    `heads` the result of each head.

    As a mapping, a result of one head contains its predictions: `result["boxes"]`. A result of several heads contains
    their results: `result["segmentation"].semantic`.

    image: (H, W, C) with these channels, or a file. predictions, classes: one entry per head. threshold: the score
    threshold of objects, for all heads or by head; None, or a head without a threshold: keeps all objects. types: each
    head's target types of keys that have options (`Head.target_types`). path: the image file, the video, or the URL;
    None for pixels or bytes. frame: the number in the video, from 0; None for an image.

    Example:
        >>> result = densevit.load("runs/detr_swin").predict("examples/coffee.jpg", threshold=0)
        >>> result.size, result.boxes.shape[1], len(result.names) == len(result.scores)
        ((480, 720), 4, True)
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
        self.path, self.frame, self.classes, self._channels = path, frame, classes, channels
        self._image, self.size = image if isinstance(image, np.ndarray) else user_path(image), size
        by_head = threshold if isinstance(threshold, Mapping) else dict.fromkeys(predictions, threshold)
        head_names(by_head, predictions, "Result: threshold")
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

    def counts(self) -> dict[str, int]:
        """The number of objects of each class that has any, by name."""
        return dict(Counter(self.names))

    def filter(self, classes: Collection[str] | None = None, score: float | None = None) -> "Result":
        """A result with only the objects of these classes and of at least this score; maps stay as they are.

        classes: names; None: all. Raises DensevitError for a name that is no class of the result's heads.
        """
        names = {c.name for head_classes in self.classes.values() for c in head_classes}
        for name in {*(classes or ())} - names:
            raise DensevitError(f"filter: {name!r} is not a class of the result.{did_you_mean(name, names)}")
        result = self._of(*self._predictions)
        for head, outputs in [(name, x) for name, x in self._predictions.items() if "labels" in x]:
            wanted = [i for i, c in enumerate(self.classes[head]) if classes is None or c.name in classes]
            kept = with_objects(outputs, torch.isin(outputs["labels"], torch.tensor(wanted)), self.types[head])
            result._predictions[head] = above_threshold(kept, score, self.types[head])
        return result

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
        return self._of(key)  # KeyError for other names

    def __iter__(self) -> Iterator[str]:
        return iter(next(iter(self._predictions.values())) if len(self._predictions) == 1 else self._predictions)

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def __repr__(self) -> str:
        heads = [f"{head}: {', '.join(starmap(_shown, items.items()))}" for head, items in self._predictions.items()]
        return f"Result({self.size[0]}x{self.size[1]}; {'; '.join(heads)})"

    def _of(self, *heads: str) -> "Result":
        """A result of these heads."""
        classes = {head: self.classes.get(head, ()) for head in heads}
        predictions = {head: self._predictions[head] for head in heads}
        thresholds = {head: score for head, score in self.thresholds.items() if head in heads}
        origin = self.path, self.frame, self._channels
        return Result(self._image, self.size, predictions, classes, thresholds, self.types, *origin)

    def _head_of(self, key: str) -> str:
        """The head that predicts a key. Raises AttributeError unless there is exactly one."""
        heads = [head for head, outputs in self._predictions.items() if key in outputs]
        if len(heads) == 1:
            return heads[0]
        if heads:
            raise AttributeError(
                f"{key} is predicted by the heads {' and '.join(heads)}. Name one: result[{heads[0]!r}].{key}."
            )
        metres = " Relative depth is inverse_depth. Fix: for metres, train a head with output=softplus, as dpt."
        hint = metres if key == "depth" and "inverse_depth" in dir(self) else ""
        there = "; ".join(f"{head}: {', '.join(outputs)}" for head, outputs in self._predictions.items())
        raise AttributeError(f"no head predicts {key}. Predictions by head: {there}.{hint}")

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
            panels.append(draw(image, outputs, self.classes.get(head, ()), lowest, types=self.types[head]))
        height = max(map(len, panels))
        padding = [((0, height - len(panel)), (0, 0), (0, 0)) for panel in panels]  # white, at the bottom
        return Image.fromarray(
            np.hstack([np.pad(x, p, constant_values=255) for x, p in zip(panels, padding, strict=True)])
        )

    def save(self, path: str | os.PathLike[str], threshold: float | None = None) -> None:
        """Writes the visualization in the format of the suffix (`.png`, `.jpg`, ...).

        threshold: the lowest score; None: each head's threshold. Raises DensevitError if the suffix names no format, or
        the file cannot be written.
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

        threshold: the lowest score; None: each head's threshold. Raises DensevitError if no window can be opened.
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
        """`to_dict` as JSON text."""
        return json.dumps(self.to_dict(), ensure_ascii=False)

    def to_dict(self) -> dict[str, Any]:
        """Converts the result to plain numbers and texts: `height`, `width`, and `heads` with a mapping per head.

        `objects`: an entry per object: `name`, `label`, `score`, `box` (xyxy in pixels), `mask` as COCO's compressed
        run-length code, and other predictions per object. `semantic`, `panoptic`: an entry per class or segment:
        `name`, `label`, `mask`, and the segment's `id`. `image_class`: `name` and `label` of the image's class.
        Floating-point maps, such as depth, are omitted.
        """
        return result_formats.as_dict(self.predictions, self.classes, self.types, self.size)

    def to_pandas(self) -> "pandas.DataFrame":
        """Converts the result to a table with a row per object: `head`, `name`, `label`, `score`, `x1`, `y1`, `x2`,
        `y2`.

        Raises DensevitError if pandas is not installed, and for a result without objects.
        """
        return result_formats.as_table(self.predictions, self.classes)

    def to_supervision(self) -> "supervision.Detections":
        """Converts the result to `supervision.Detections`, with class names in its data.

        Objects become detections with scores, and masks if there are any; a label or panoptic map becomes one detection
        with a mask per class or segment. Raises DensevitError if supervision is not installed, and for other
        predictions.
        """
        return result_formats.as_detections(self.predictions, self.classes)


def _shown(key: str, value: Any) -> str:
    return f"{key} {tuple(value.shape)}" if hasattr(value, "shape") else key
