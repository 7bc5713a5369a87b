"""Predictions drawn onto their picture."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from densevit.interfaces import IGNORE, Class, Predictions, Targets
from densevit.visualization.depth import depth_panels, has_depth

SMALL = 560  # a picture with a mean side below this is enlarged by a whole number, so that its labels can be read
LARGEST = 2000  # but never beyond this length
AN_OBJECT = ("boxes", "scores", "labels", "masks")  # keys with one row an object
OPACITY = 0.6  # of a label map's colours over the picture
WRONG = (230, 30, 40)

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont
Box = tuple[float, float, float, float]


def draw(
    image: Tensor | np.ndarray,
    predictions: Predictions,
    classes: Sequence[Class],
    threshold: float = 0.5,
    truth: Targets | None = None,
) -> np.ndarray:
    """Draws what the predictions hold, each thing in its class's colour; beside it the truth, where one is given.

    Label maps (`semantic`) lie over the picture, with the classes that are seen named beneath; where the truth has one
    too, a third picture shows in red what is wrong over the picture in pale grey, and what is not labelled in black.
    Depth stands in colours beside the picture, each map over a bar in metres (see `depth`).

    image: (3, H, W) tensor or (H, W, 3) array, uint8, RGB. predictions, truth: in the image's pixels.
    threshold: objects with a lower score are not drawn.
    Returns (H', W', 3) uint8, larger than the image by a whole number where that is small.
    """
    picture = _as_picture(image)
    zoom = max(1, min(round(SMALL / _mean_side(picture)), LARGEST // max(picture.size)))
    picture = picture.resize((picture.width * zoom, picture.height * zoom), Image.Resampling.BICUBIC)
    if has_depth(predictions):
        return np.asarray(_side_by_side(depth_panels(picture, predictions, truth, zoom, _font(picture)), columns=2))
    drawn = _painted(picture, _above(predictions, threshold), classes, zoom)
    maps = [
        _labels(result) for result in (predictions, truth or {}) if "semantic" in result and "semantic" in predictions
    ]
    if truth is not None:
        asked = {key: value for key, value in truth.items() if key not in PAINTERS or key in predictions}
        panels = {"truth": _painted(picture, asked, classes, zoom), "prediction": drawn}
        if len(maps) == 2:
            panels["errors"] = _error_map(picture, maps[0], maps[1], zoom)
        drawn = _side_by_side(panels)
    if maps:
        drawn = _with_legend(drawn, _seen(maps, classes), _font(picture))
    return np.asarray(drawn)


def _painted(picture: Image.Image, result: Mapping[str, Any], classes: Sequence[Class], zoom: int) -> Image.Image:
    canvas = picture.copy()
    for key, paint in PAINTERS.items():
        if key in result:
            paint(canvas, result, classes, zoom)
    return canvas


def paint_boxes(canvas: Image.Image, result: Mapping[str, Any], classes: Sequence[Class], zoom: int) -> None:
    """Draws `boxes`, each with its class's name and, where there are `scores`, its score; the best lie on top."""
    pen = ImageDraw.Draw(canvas)
    line = max(2, round(_mean_side(canvas) / 280))
    boxes, labels = _array(result["boxes"]).reshape(-1, 4) * zoom, _array(result["labels"])
    scores = _array(result["scores"]) if "scores" in result else None
    crowds = _array(result["iscrowd"]) if "iscrowd" in result else np.zeros(len(boxes), bool)
    order = np.argsort(-scores, kind="stable") if scores is not None else np.arange(len(boxes))

    corners = [_inside(box, canvas) for box in boxes]
    for n in order[::-1]:
        color, (x1, y1, x2, y2) = classes[labels[n]].color, corners[n]
        pen.rectangle((x1 - 1, y1 - 1, x2 + 1, y2 + 1), outline=(0, 0, 0), width=line + 2)  # seen on any background
        pen.rectangle((x1, y1, x2, y2), outline=color, width=line)

    font = _font(canvas)
    texts: list[str] = []
    places: list[Box] = []
    for n in order:
        name = classes[labels[n]].name + (" (crowd)" if crowds[n] else "")
        ending = "" if scores is None else f" {scores[n]:.2f}"
        texts.append(_shortened(pen, name, ending, font, 0.95 * canvas.width))
        places.append(_place_label(pen, texts[-1], font, corners[n], places, canvas))
    for n, text, place in reversed(list(zip(order, texts, places, strict=True))):
        _label(pen, text, font, place, classes[labels[n]].color)


def paint_semantic(canvas: Image.Image, result: Mapping[str, Any], classes: Sequence[Class], zoom: int) -> None:
    """Lays the classes' colours over the picture; where `semantic` is 255, or no class, the picture stays as it is."""
    labels = _labels(result)
    colors = np.zeros((256, 3), np.uint8)
    colors[: len(classes)] = [c.color for c in classes]
    overlay = _enlarged(colors[labels], zoom)
    canvas.paste(Image.blend(canvas, overlay, OPACITY), mask=_enlarged(_mask(labels < len(classes)), zoom))


PAINTERS: dict[str, Callable[[Image.Image, Mapping[str, Any], Sequence[Class], int], None]] = {
    "semantic": paint_semantic,
    "boxes": paint_boxes,
}
"""What draws each key of predictions, in the order in which they lie over one another."""


def _as_picture(image: Tensor | np.ndarray) -> Image.Image:
    array = image.permute(1, 2, 0).cpu().numpy() if isinstance(image, Tensor) else image
    return Image.fromarray(np.ascontiguousarray(array))


def _array(values: Any) -> np.ndarray:
    return values.detach().float().cpu().numpy() if _is_float(values) else np.asarray(values)


def _labels(result: Mapping[str, Any]) -> np.ndarray:
    return _array(result["semantic"]).astype(np.uint8)


def _mask(where: np.ndarray) -> np.ndarray:
    return np.where(where, 255, 0).astype(np.uint8)


def _enlarged(pixels: np.ndarray, zoom: int) -> Image.Image:
    picture = Image.fromarray(pixels)
    return picture.resize((picture.width * zoom, picture.height * zoom), Image.Resampling.NEAREST)


def _error_map(picture: Image.Image, found: np.ndarray, truth: np.ndarray, zoom: int) -> Image.Image:
    """The picture in pale grey, what is labelled otherwise than found in red, what is not labelled in black."""
    errors = Image.blend(picture.convert("L").convert("RGB"), Image.new("RGB", picture.size, (255, 255, 255)), 0.4)
    red = Image.new("RGB", picture.size, WRONG)
    errors.paste(Image.blend(errors, red, OPACITY), mask=_enlarged(_mask((truth != found) & (truth != IGNORE)), zoom))
    errors.paste((0, 0, 0), mask=_enlarged(_mask(truth == IGNORE), zoom))
    return errors


def _seen(maps: Sequence[np.ndarray], classes: Sequence[Class]) -> list[Class]:
    """The classes of some label maps, those with most pixels first."""
    pixels = np.sum([np.bincount(labels.ravel(), minlength=256) for labels in maps], axis=0)[: len(classes)]
    return [classes[n] for n in np.argsort(-pixels, kind="stable") if pixels[n]]


def _is_float(values: Any) -> bool:
    return isinstance(values, Tensor) and values.is_floating_point()


def _above(predictions: Predictions, threshold: float) -> dict[str, Any]:
    if "scores" not in predictions:
        return dict(predictions)
    keep = _array(predictions["scores"]) >= threshold
    return {key: _array(value)[keep] if key in AN_OBJECT else value for key, value in predictions.items()}


def _mean_side(picture: Image.Image) -> float:
    return float((picture.width * picture.height) ** 0.5)


def _inside(box: np.ndarray, canvas: Image.Image) -> Box:
    xs = np.sort(np.clip(box[[0, 2]], 0, canvas.width - 1))
    ys = np.sort(np.clip(box[[1, 3]], 0, canvas.height - 1))
    return float(xs[0]), float(ys[0]), float(xs[1]), float(ys[1])


def _font(canvas: Image.Image) -> Font:
    return ImageFont.load_default(max(12, round(_mean_side(canvas) / 42)))


def _shortened(pen: ImageDraw.ImageDraw, name: str, ending: str, font: Font, width: float) -> str:
    """The name and its ending; with fewer letters of the name where it would be wider than `width` pixels."""
    text = name + ending
    while len(name) > 1 and pen.textlength(text, font) > width:
        name = name[:-1]
        text = f"{name}…{ending}"
    return text


def _place_label(
    pen: ImageDraw.ImageDraw, text: str, font: Font, box: Box, taken: Sequence[Box], canvas: Image.Image
) -> Box:
    """The place for a label at its box, inside the picture, that covers the least of the labels before it."""
    x1, y1, x2, y2 = box
    _, top, _, bottom = pen.textbbox((0, 0), "Ågjy", font)
    height = bottom + top  # as much room below the letters as above
    width = pen.textlength(text, font) + height / 3
    corners = [(x1, y1 - height), (x1, y1), (x1, y2), (x1, y2 - height), (x2 - width, y1 - height), (x2 - width, y2)]
    beside = [(x2, y1), (x1 - width, y1)]
    places = []
    for x, y in (*corners, *beside):
        x, y = min(max(x, 0), max(canvas.width - width, 0)), min(max(y, 0), max(canvas.height - height, 0))
        places.append((x, y, x + width, y + height))
    return min(places, key=lambda place: sum(_overlap(place, other) for other in taken))


def _overlap(a: Box, b: Box) -> float:
    return max(0.0, min(a[2], b[2]) - max(a[0], b[0])) * max(0.0, min(a[3], b[3]) - max(a[1], b[1]))


def _label(pen: ImageDraw.ImageDraw, text: str, font: Font, place: Box, color: tuple[int, int, int]) -> None:
    pen.rectangle(place, fill=color)
    x, y, _, y2 = place
    pen.text((x + (y2 - y) / 6, (y + y2) / 2), text, fill=text_color(color), font=font, anchor="lm")


def text_color(background: tuple[int, int, int]) -> tuple[int, int, int]:
    """Black or white, whichever stands out more (WCAG 2.1's contrast of relative luminance)."""
    linear = [c / 3294.6 if c <= 10 else ((c / 255 + 0.055) / 1.055) ** 2.4 for c in background]
    luminance = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
    return (0, 0, 0) if (luminance + 0.05) ** 2 > 0.05 * 1.05 else (255, 255, 255)


def _side_by_side(pictures: Mapping[str, Image.Image], columns: int | None = None) -> Image.Image:
    """Pictures of one size in a row, or in rows of so many, each under its caption."""
    first = next(iter(pictures.values()))
    columns = columns or len(pictures)
    font = _font(first)
    band, gap = round(_mean_side(first) / 42 * 2), max(4, round(_mean_side(first) / 80))
    width, height = first.width + gap, first.height + band
    sheet = Image.new("RGB", (width * columns - gap, height * -(-len(pictures) // columns)), (255, 255, 255))
    pen = ImageDraw.Draw(sheet)
    for n, (caption, picture) in enumerate(pictures.items()):
        left, top = n % columns * width, n // columns * height
        sheet.paste(picture, (left, top + band))
        pen.text((left + gap, top + band / 2), caption, fill=(0, 0, 0), font=font, anchor="lm")
    return sheet


def _with_legend(sheet: Image.Image, classes: Sequence[Class], font: Font) -> Image.Image:
    """The sheet over a band with each class's name on its colour, in as many rows as that takes."""
    pen = ImageDraw.Draw(sheet)
    _, top, _, bottom = pen.textbbox((0, 0), "Ågjy", font)
    height = round(bottom + top)
    gap = round(height / 3)
    left, y, places = gap, sheet.height + gap, []
    for c in classes:
        text = _shortened(pen, c.name, "", font, sheet.width - 3 * gap)
        width = round(pen.textlength(text, font)) + gap
        if left > gap and left + width + gap > sheet.width:
            left, y = gap, y + height + gap
        places.append((text, (left, y, left + width, y + height), c.color))
        left += width + gap
    whole = Image.new("RGB", (sheet.width, y + height + gap), (255, 255, 255))
    whole.paste(sheet)
    for text, place, color in places:
        _label(ImageDraw.Draw(whole), text, font, place, color)
    return whole
