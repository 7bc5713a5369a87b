"""Draws predictions onto their image."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from densevit.interfaces import IGNORE, Class, Predictions, Targets
from densevit.visualization.depth import depth_panels, has_depth

MIN_MEAN_SIDE = 560  # images with a smaller mean side are enlarged by an integer factor to keep labels readable
MAX_SIDE = 2000  # of enlarged images
OBJECT_KEYS = ("boxes", "scores", "labels", "masks")  # keys with one row per object
OPACITY = 0.6  # of a label map over the image
ERROR_COLOR = (230, 30, 40)

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont
Box = tuple[float, float, float, float]


def draw(
    image: Tensor | np.ndarray,
    predictions: Predictions,
    classes: Sequence[Class],
    threshold: float = 0.5,
    truth: Targets | None = None,
) -> np.ndarray:
    """Draws predictions in the colours of their classes; beside them the ground truth, if given.

    Label maps (`semantic`) are overlaid on the image, with a legend of the classes below. If the ground truth has a
    label map too, a third panel shows wrong pixels in red and unlabelled pixels in black over the image in pale grey.
    Depth maps are shown beside the image, each with a colour bar in metres (see `depth`).

    image: (3, H, W) tensor or (H, W, 3) array, uint8, RGB. predictions, truth: in the image's pixels.
    threshold: objects with a lower score are not drawn.
    Returns (H', W', 3) uint8; small images are enlarged by an integer factor.
    """
    panel = _to_pil(image)
    zoom = max(1, min(round(MIN_MEAN_SIDE / _mean_side(panel)), MAX_SIDE // max(panel.size)))
    panel = panel.resize((panel.width * zoom, panel.height * zoom), Image.Resampling.BICUBIC)
    if has_depth(predictions):
        return np.asarray(_side_by_side(depth_panels(panel, predictions, truth, zoom, _font(panel)), columns=2))
    drawn = _overlaid(panel, _above(predictions, threshold), classes, zoom)
    maps = [
        _labels(result) for result in (predictions, truth or {}) if "semantic" in result and "semantic" in predictions
    ]
    if truth is not None:
        selected = {key: value for key, value in truth.items() if key not in PAINTERS or key in predictions}
        panels = {"truth": _overlaid(panel, selected, classes, zoom), "prediction": drawn}
        if len(maps) == 2:
            panels["errors"] = _error_map(panel, maps[0], maps[1], zoom)
        drawn = _side_by_side(panels)
    if maps:
        drawn = _with_legend(drawn, _classes_by_area(maps, classes), _font(panel))
    return np.asarray(drawn)


def _overlaid(image: Image.Image, result: Mapping[str, Any], classes: Sequence[Class], zoom: int) -> Image.Image:
    canvas = image.copy()
    for key, paint in PAINTERS.items():
        if key in result:
            paint(canvas, result, classes, zoom)
    return canvas


def paint_boxes(canvas: Image.Image, result: Mapping[str, Any], classes: Sequence[Class], zoom: int) -> None:
    """Draws `boxes` with class names and, if there are `scores`, scores; boxes with high scores are on top."""
    drawing = ImageDraw.Draw(canvas)
    line = max(2, round(_mean_side(canvas) / 280))
    boxes, labels = _array(result["boxes"]).reshape(-1, 4) * zoom, _array(result["labels"])
    scores = _array(result["scores"]) if "scores" in result else None
    crowds = _array(result["iscrowd"]) if "iscrowd" in result else np.zeros(len(boxes), bool)
    order = np.argsort(-scores, kind="stable") if scores is not None else np.arange(len(boxes))

    corners = [_inside(box, canvas) for box in boxes]
    for n in order[::-1]:
        color, (x1, y1, x2, y2) = classes[labels[n]].color, corners[n]
        # A black border is visible on any background.
        drawing.rectangle((x1 - 1, y1 - 1, x2 + 1, y2 + 1), outline=(0, 0, 0), width=line + 2)
        drawing.rectangle((x1, y1, x2, y2), outline=color, width=line)

    font = _font(canvas)
    texts: list[str] = []
    positions: list[Box] = []
    for n in order:
        name = classes[labels[n]].name + (" (crowd)" if crowds[n] else "")
        suffix = "" if scores is None else f" {scores[n]:.2f}"
        texts.append(_shortened(drawing, name, suffix, font, 0.95 * canvas.width))
        positions.append(_label_position(drawing, texts[-1], font, corners[n], positions, canvas))
    for n, text, position in reversed(list(zip(order, texts, positions, strict=True))):
        _label(drawing, text, font, position, classes[labels[n]].color)


def paint_semantic(canvas: Image.Image, result: Mapping[str, Any], classes: Sequence[Class], zoom: int) -> None:
    """Overlays the class colours on the image; pixels of `semantic` without a class, such as 255, are unchanged."""
    labels = _labels(result)
    colors = np.zeros((256, 3), np.uint8)
    colors[: len(classes)] = [c.color for c in classes]
    overlay = _enlarged(colors[labels], zoom)
    canvas.paste(Image.blend(canvas, overlay, OPACITY), mask=_enlarged(_mask(labels < len(classes)), zoom))


PAINTERS: dict[str, Callable[[Image.Image, Mapping[str, Any], Sequence[Class], int], None]] = {
    "semantic": paint_semantic,
    "boxes": paint_boxes,
}
"""The function that draws each key of predictions, in drawing order."""


def _to_pil(image: Tensor | np.ndarray) -> Image.Image:
    array = image.permute(1, 2, 0).cpu().numpy() if isinstance(image, Tensor) else image
    return Image.fromarray(np.ascontiguousarray(array))


def _array(values: Any) -> np.ndarray:
    return values.detach().float().cpu().numpy() if _is_float(values) else np.asarray(values)


def _labels(result: Mapping[str, Any]) -> np.ndarray:
    return _array(result["semantic"]).astype(np.uint8)


def _mask(where: np.ndarray) -> np.ndarray:
    return np.where(where, 255, 0).astype(np.uint8)


def _enlarged(pixels: np.ndarray, zoom: int) -> Image.Image:
    image = Image.fromarray(pixels)
    return image.resize((image.width * zoom, image.height * zoom), Image.Resampling.NEAREST)


def _error_map(image: Image.Image, prediction: np.ndarray, truth: np.ndarray, zoom: int) -> Image.Image:
    """The image in pale grey, wrong pixels in red, unlabelled pixels in black."""
    errors = Image.blend(image.convert("L").convert("RGB"), Image.new("RGB", image.size, (255, 255, 255)), 0.4)
    red = Image.new("RGB", image.size, ERROR_COLOR)
    wrong = (truth != prediction) & (truth != IGNORE)
    errors.paste(Image.blend(errors, red, OPACITY), mask=_enlarged(_mask(wrong), zoom))
    errors.paste((0, 0, 0), mask=_enlarged(_mask(truth == IGNORE), zoom))
    return errors


def _classes_by_area(maps: Sequence[np.ndarray], classes: Sequence[Class]) -> list[Class]:
    """The classes in some label maps, sorted by decreasing number of pixels."""
    pixels = np.sum([np.bincount(labels.ravel(), minlength=256) for labels in maps], axis=0)[: len(classes)]
    return [classes[n] for n in np.argsort(-pixels, kind="stable") if pixels[n]]


def _is_float(values: Any) -> bool:
    return isinstance(values, Tensor) and values.is_floating_point()


def _above(predictions: Predictions, threshold: float) -> dict[str, Any]:
    if "scores" not in predictions:
        return dict(predictions)
    keep = _array(predictions["scores"]) >= threshold
    return {key: _array(value)[keep] if key in OBJECT_KEYS else value for key, value in predictions.items()}


def _mean_side(image: Image.Image) -> float:
    return float((image.width * image.height) ** 0.5)


def _inside(box: np.ndarray, canvas: Image.Image) -> Box:
    xs = np.sort(np.clip(box[[0, 2]], 0, canvas.width - 1))
    ys = np.sort(np.clip(box[[1, 3]], 0, canvas.height - 1))
    return float(xs[0]), float(ys[0]), float(xs[1]), float(ys[1])


def _font(canvas: Image.Image) -> Font:
    return ImageFont.load_default(max(12, round(_mean_side(canvas) / 42)))


def _shortened(drawing: ImageDraw.ImageDraw, name: str, suffix: str, font: Font, width: float) -> str:
    """The name and its suffix; the name is truncated to fit into `width` pixels."""
    text = name + suffix
    while len(name) > 1 and drawing.textlength(text, font) > width:
        name = name[:-1]
        text = f"{name}…{suffix}"
    return text


def _label_position(
    drawing: ImageDraw.ImageDraw, text: str, font: Font, box: Box, taken: Sequence[Box], canvas: Image.Image
) -> Box:
    """The position for a label at its box, inside the image, with the least overlap with previous labels."""
    x1, y1, x2, y2 = box
    _, top, _, bottom = drawing.textbbox((0, 0), "Ågjy", font)
    height = bottom + top  # equal margins above and below the letters
    width = drawing.textlength(text, font) + height / 3
    corners = [(x1, y1 - height), (x1, y1), (x1, y2), (x1, y2 - height), (x2 - width, y1 - height), (x2 - width, y2)]
    side = [(x2, y1), (x1 - width, y1)]
    positions = []
    for x, y in (*corners, *side):
        x, y = min(max(x, 0), max(canvas.width - width, 0)), min(max(y, 0), max(canvas.height - height, 0))
        positions.append((x, y, x + width, y + height))
    return min(positions, key=lambda position: sum(_overlap(position, other) for other in taken))


def _overlap(a: Box, b: Box) -> float:
    return max(0.0, min(a[2], b[2]) - max(a[0], b[0])) * max(0.0, min(a[3], b[3]) - max(a[1], b[1]))


def _label(drawing: ImageDraw.ImageDraw, text: str, font: Font, position: Box, color: tuple[int, int, int]) -> None:
    drawing.rectangle(position, fill=color)
    x, y, _, y2 = position
    drawing.text((x + (y2 - y) / 6, (y + y2) / 2), text, fill=text_color(color), font=font, anchor="lm")


def text_color(background: tuple[int, int, int]) -> tuple[int, int, int]:
    """Black or white, whichever has the higher contrast (relative luminance, WCAG 2.1)."""
    linear = [c / 3294.6 if c <= 10 else ((c / 255 + 0.055) / 1.055) ** 2.4 for c in background]
    luminance = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
    return (0, 0, 0) if (luminance + 0.05) ** 2 > 0.05 * 1.05 else (255, 255, 255)


def _side_by_side(panels: Mapping[str, Image.Image], columns: int | None = None) -> Image.Image:
    """Arranges panels of one size in a row, or in rows of `columns`, each below its caption."""
    first = next(iter(panels.values()))
    columns = columns or len(panels)
    font = _font(first)
    band, gap = round(_mean_side(first) / 42 * 2), max(4, round(_mean_side(first) / 80))
    width, height = first.width + gap, first.height + band
    canvas = Image.new("RGB", (width * columns - gap, height * -(-len(panels) // columns)), (255, 255, 255))
    drawing = ImageDraw.Draw(canvas)
    for n, (caption, panel) in enumerate(panels.items()):
        left, top = n % columns * width, n // columns * height
        canvas.paste(panel, (left, top + band))
        drawing.text((left + gap, top + band / 2), caption, fill=(0, 0, 0), font=font, anchor="lm")
    return canvas


def _with_legend(canvas: Image.Image, classes: Sequence[Class], font: Font) -> Image.Image:
    """Adds a legend below the canvas: class names on their colours, in as many rows as necessary."""
    drawing = ImageDraw.Draw(canvas)
    _, top, _, bottom = drawing.textbbox((0, 0), "Ågjy", font)
    height = round(bottom + top)
    gap = round(height / 3)
    left, y, positions = gap, canvas.height + gap, []
    for c in classes:
        text = _shortened(drawing, c.name, "", font, canvas.width - 3 * gap)
        width = round(drawing.textlength(text, font)) + gap
        if left > gap and left + width + gap > canvas.width:
            left, y = gap, y + height + gap
        positions.append((text, (left, y, left + width, y + height), c.color))
        left += width + gap
    result = Image.new("RGB", (canvas.width, y + height + gap), (255, 255, 255))
    result.paste(canvas)
    for text, position, color in positions:
        _label(ImageDraw.Draw(result), text, font, position, color)
    return result
