"""The figures of an inspection: tiles with captions, heat maps over the image, windows."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from PIL import Image, ImageDraw

from densevit.drawing.fonts import draw_text

CAPTION, FONT_SIZE = 18, 12  # height in pixels
GAP = 6
QUERY = (255, 80, 40)
BACKGROUND, INK = (255, 255, 255), (30, 30, 30)

Tile = tuple[str, np.ndarray]  # caption and pixels (H, W, 3) uint8


@dataclass(frozen=True)
class Figure:
    """A figure of an inspector, a section of the page and a PNG file.

    name: the beginning of the file's name. caption: the text below. columns: tiles in a row. side: the longer side of a
    tile in pixels.
    """

    name: str
    title: str
    caption: str
    tiles: Sequence[Tile]
    columns: int = 4
    side: int = 300


def sheet(tiles: Sequence[Tile], columns: int, side: int) -> Image.Image:
    """Arranges tiles in rows with captions above, each scaled so that its longer side is `side` pixels."""
    images = [_scaled(pixels, side) for _, pixels in tiles]
    width, height = max(i.width for i in images), max(i.height for i in images)
    columns = min(columns, len(tiles))
    rows = math.ceil(len(tiles) / columns)
    caption = CAPTION if any(text for text, _ in tiles) else 0
    canvas = Image.new("RGB", (columns * (width + GAP) - GAP, rows * (height + caption + GAP) - GAP), BACKGROUND)
    drawing = ImageDraw.Draw(canvas)
    for number, ((text, _), image) in enumerate(zip(tiles, images, strict=True)):
        row, column = divmod(number, columns)
        left, top = column * (width + GAP), row * (height + caption + GAP)
        draw_text(drawing, left, top + CAPTION / 2, text, FONT_SIZE, INK)
        canvas.paste(image, (left, top + caption))
    return canvas


def _scaled(pixels: np.ndarray, side: int) -> Image.Image:
    factor = side / max(pixels.shape[:2])
    size = (max(1, round(pixels.shape[1] * factor)), max(1, round(pixels.shape[0] * factor)))
    return Image.fromarray(pixels).resize(size, Image.Resampling.NEAREST if factor > 1 else Image.Resampling.BOX)


def colored(values: np.ndarray) -> np.ndarray:
    """(H, W) -> (H, W, 3) uint8: the smallest value is dark blue, the largest yellow."""
    low, high = float(values.min()), float(values.max())
    levels = np.round(255 * (values - low) / max(high - low, 1e-12)).astype(np.uint8)
    return cv2.cvtColor(cv2.applyColorMap(levels, cv2.COLORMAP_VIRIDIS), cv2.COLOR_BGR2RGB)


def heat(image: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Blends a map (h, w), scaled to the image, with the image (H, W, 3) in grey; each cell is a rectangle."""
    grey = np.repeat(image.mean(2, keepdims=True), 3, 2)
    colors = cv2.resize(colored(values), image.shape[1::-1], interpolation=cv2.INTER_NEAREST)
    return np.round(0.35 * grey + 0.65 * colors).astype(np.uint8)


def with_point(pixels: np.ndarray, point: tuple[float, float]) -> np.ndarray:
    """Draws a cross at (y, x), as fractions of the image."""
    height, width = pixels.shape[:2]
    y, x = min(int(point[0] * height), height - 1), min(int(point[1] * width), width - 1)
    drawn, arm = pixels.copy(), max(3, max(height, width) // 40)
    cv2.drawMarker(drawn, (x, y), QUERY, cv2.MARKER_CROSS, 2 * arm, max(1, arm // 4))
    return drawn


def with_box(pixels: np.ndarray, box: Sequence[float]) -> np.ndarray:
    """Draws a box (x1, y1, x2, y2) in pixels."""
    drawn = pixels.copy()
    x1, y1, x2, y2 = (round(float(value)) for value in box)
    cv2.rectangle(drawn, (x1, y1), (x2, y2), QUERY, max(1, max(pixels.shape[:2]) // 200))
    return drawn
