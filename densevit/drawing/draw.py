"""Draws predictions onto their image, each key by its target type."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageOps
from torch import Tensor

from densevit.channels import RGB, Channels
from densevit.data.io.channel_files import as_rgb
from densevit.drawing.canvas import (
    OPACITY,
    ImageCanvas,
    as_mask,
    enlarged,
    font_size,
    label,
    mean_side,
    shortened,
)
from densevit.drawing.fonts import draw_text, drawable_names, line_height, text_width
from densevit.drawing.value_maps import value_map_panels
from densevit.interfaces import DEFAULT_THRESHOLD, Class, Predictions, Targets, TargetType
from densevit.targets.types import TargetTypes, above_threshold, as_array

MIN_MEAN_SIDE = 560  # images with a smaller mean side are enlarged by an integer factor to keep labels readable
MAX_SIDE = 2000  # of enlarged images
ERROR_COLOR = (230, 30, 40)


def draw(
    image: Tensor | np.ndarray,
    predictions: Predictions,
    classes: Sequence[Class],
    threshold: float = DEFAULT_THRESHOLD,
    truth: Targets | None = None,
    types: Mapping[str, TargetType] | None = None,
    frame: bool = False,
    channels: Channels = RGB,
) -> np.ndarray:
    """Draws predictions in the colours of their classes, next to the ground truth if there is any.

    The target type of each key draws it. Label maps are overlaid on the image, with a legend of the classes below. With
    ground truth, another panel shows wrong pixels in red and unlabelled pixels in black over the image in pale grey.
    Depth maps are panels next to the image, each with a colour bar in metres (see `value_maps`).

    image: (C, H, W) tensor or (H, W, C) array in these channels, converted by `as_rgb`. predictions, truth: values
    in the image's pixel coordinates. threshold: objects with a lower score are not drawn. types: target types with
    options (`Head.target_types`). frame: whether the image is a frame of a video, which keeps its size; the legend is
    then inside it, at the bottom.
    Returns (H', W', 3) uint8; small images are enlarged by an integer factor, frames are not.
    """
    classes = _with_drawable_names(classes)
    target_types = TargetTypes(types)
    result = above_threshold(_arrays(predictions), threshold, target_types)
    drawing = ImageDrawing(_to_pil(image, channels), truth is not None, frame)
    shown = None if truth is None else _arrays(truth)
    keys = [key for key in result if key in target_types]
    superseded = {other for key in keys for other in target_types[key].supersedes}
    for key in sorted(keys, key=lambda key: target_types[key].layer):
        if key not in superseded:
            target_types[key].draw(drawing, key, result, shown, classes)
    return drawing.finished()


class ImageDrawing:
    """Drawing surfaces for target types: canvases for predictions and ground truth, and panels next to them."""

    def __init__(self, image: Image.Image, with_truth: bool, frame: bool = False) -> None:
        self._frame = frame
        zoom = min(round(MIN_MEAN_SIDE / mean_side(image)), MAX_SIDE // max(image.size))
        self.zoom = 1 if frame else max(1, zoom)
        size = (image.width * self.zoom, image.height * self.zoom)
        self._image = image.resize(size, Image.Resampling.BICUBIC)
        self._prediction: ImageCanvas | None = None
        self._truth = ImageCanvas(self._image, self.zoom) if with_truth else None
        self._panels: dict[str, Image.Image] = {}
        self._classes: list[Class] = []

    @property
    def prediction(self) -> ImageCanvas:
        """The image on which predictions are drawn."""
        if self._prediction is None:
            self._prediction = ImageCanvas(self._image, self.zoom)
        return self._prediction

    @property
    def truth(self) -> ImageCanvas | None:
        """The image on which ground truth is drawn; None without ground truth."""
        return self._truth

    def legend(self, classes: Sequence[Class]) -> None:
        """Adds the classes to the legend below the image."""
        self._classes.extend(c for c in classes if c not in self._classes)

    def panel(self, caption: str, pixels: np.ndarray) -> None:
        """Adds a panel: an image (H, W, 3) uint8 and its caption."""
        self._panels[caption] = enlarged(pixels, self.zoom)

    def value_maps(
        self, prediction: np.ndarray, truth: np.ndarray | None, unit: str = "m", inverse: bool = False
    ) -> None:
        """Adds panels of maps (H, W) with colour bars, and of the relative error; see `value_map_panels`."""
        self._panels |= value_map_panels(prediction, truth, unit, inverse, self.zoom, font_size(self._image))

    def error_map(self, wrong: np.ndarray, ignored: np.ndarray) -> None:
        """Adds a panel: the image in pale grey with wrong pixels (H, W) in red and ignored pixels in black."""
        image = self._image
        errors = Image.blend(image.convert("L").convert("RGB"), Image.new("RGB", image.size, (255, 255, 255)), 0.4)
        red = Image.new("RGB", image.size, ERROR_COLOR)
        errors.paste(Image.blend(errors, red, OPACITY), mask=enlarged(as_mask(wrong), self.zoom))
        errors.paste((0, 0, 0), mask=enlarged(as_mask(ignored), self.zoom))
        self._panels["errors"] = errors

    def finished(self) -> np.ndarray:
        """Arranges all panels: in two columns if nothing is drawn on the image itself, otherwise in one row."""
        columns = None
        if self._panels and self._prediction is None:
            drawn, columns = {"image": self._image} | self._panels, 2
        elif self._truth is not None:
            drawn = {"truth": self._truth.image, "prediction": self.prediction.image} | self._panels
        elif self._panels:
            drawn = {"prediction": self.prediction.image} | self._panels
        else:
            drawn = {}
        image = _side_by_side(_padded_to_one_height(drawn), columns) if drawn else self.prediction.image
        if self._classes:
            image = _with_legend(image, self._classes, font_size(self._image), inside=self._frame)
        return np.asarray(image)


def _with_drawable_names(classes: Sequence[Class]) -> list[Class]:
    names = drawable_names({index: c.name for index, c in enumerate(classes)})
    return [c if c.name == names[index] else replace(c, name=names[index]) for index, c in enumerate(classes)]


def _arrays(values: Mapping[str, Any]) -> dict[str, Any]:
    """Converts tensors to arrays; leaves other values, such as run-length codes."""
    return {key: as_array(value) if isinstance(value, Tensor) else value for key, value in values.items()}


def _padded_to_one_height(panels: Mapping[str, Image.Image]) -> dict[str, Image.Image]:
    """Pads panels with white at the bottom to the same height; panels with colour bars are higher."""
    height = max(panel.height for panel in panels.values())
    return {
        caption: ImageOps.expand(panel, (0, 0, 0, height - panel.height), (255, 255, 255))
        for caption, panel in panels.items()
    }


def _to_pil(image: Tensor | np.ndarray, channels: Channels) -> Image.Image:
    array = image.permute(1, 2, 0).cpu().numpy() if isinstance(image, Tensor) else image
    return Image.fromarray(np.ascontiguousarray(as_rgb(array, channels)))


def _side_by_side(panels: Mapping[str, Image.Image], columns: int | None = None) -> Image.Image:
    """Arranges panels of the same size in a row, or in rows of `columns`, each below its caption."""
    first = next(iter(panels.values()))
    columns = columns or len(panels)
    size = font_size(first)
    band, gap = round(mean_side(first) / 42 * 2), max(4, round(mean_side(first) / 80))
    width, height = first.width + gap, first.height + band
    canvas = Image.new("RGB", (width * columns - gap, height * -(-len(panels) // columns)), (255, 255, 255))
    drawing = ImageDraw.Draw(canvas)
    for n, (caption, panel) in enumerate(panels.items()):
        left, top = n % columns * width, n // columns * height
        canvas.paste(panel, (left, top + band))
        draw_text(drawing, left + gap, top + band / 2, caption, size, (0, 0, 0))
    return canvas


def _with_legend(canvas: Image.Image, classes: Sequence[Class], size: int, inside: bool) -> Image.Image:
    """Adds a legend below the canvas, or inside it: class names on their colours, in as many rows as necessary."""
    height = line_height(size)
    gap = round(height / 3)
    left, y, positions = gap, canvas.height + gap, []
    for c in classes:
        text = shortened(c.name, "", size, canvas.width - 3 * gap)
        width = round(text_width(text, size)) + gap
        if left > gap and left + width + gap > canvas.width:
            left, y = gap, y + height + gap
        positions.append((text, (left, y, left + width, y + height), c.color))
        left += width + gap
    shift = y + height + gap - canvas.height if inside else 0
    result = Image.new("RGB", (canvas.width, y + height + gap - shift), (255, 255, 255))
    result.paste(canvas)
    for text, (left, top, right, bottom), color in positions:
        label(ImageDraw.Draw(result), text, size, (left, top - shift, right, bottom - shift), color)
    return result
