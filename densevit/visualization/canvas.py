"""The canvas that target types draw on: overlays, boxes with labels, points and lines over an image."""

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

OPACITY = 0.6  # of overlays

Color = tuple[int, int, int]
Font = ImageFont.FreeTypeFont | ImageFont.ImageFont
Box = tuple[float, float, float, float]


class ImageCanvas:
    """An image, enlarged by an integer factor `zoom`. Coordinates are in pixels of the original."""

    def __init__(self, image: Image.Image, zoom: int) -> None:
        self.image, self.zoom = image.copy(), zoom

    def overlay(self, colors: np.ndarray, mask: np.ndarray) -> None:
        """Blends colours (H, W, 3) uint8 with the image where mask (H, W) is True."""
        overlay = enlarged(colors, self.zoom)
        self.image.paste(Image.blend(self.image, overlay, OPACITY), mask=enlarged(as_mask(mask), self.zoom))

    def boxes(self, boxes: np.ndarray, colors: Sequence[Color], texts: Sequence[tuple[str, str]]) -> None:
        """Outlines boxes (N, 4) xyxy, the first on top, each with a label that covers others as little as possible."""
        drawing = ImageDraw.Draw(self.image)
        line = max(2, round(mean_side(self.image) / 280))
        corners = [_inside(box, self.image) for box in boxes * self.zoom]
        for (x1, y1, x2, y2), color in reversed(list(zip(corners, colors, strict=True))):
            # A black border is visible on any background.
            drawing.rectangle((x1 - 1, y1 - 1, x2 + 1, y2 + 1), outline=(0, 0, 0), width=line + 2)
            drawing.rectangle((x1, y1, x2, y2), outline=color, width=line)

        font = font_of(self.image)
        labels: list[str] = []
        positions: list[Box] = []
        for box, (name, suffix) in zip(corners, texts, strict=True):
            labels.append(shortened(drawing, name, suffix, font, 0.95 * self.image.width))
            positions.append(_label_position(drawing, labels[-1], font, box, positions, self.image))
        for text, position, color in reversed(list(zip(labels, positions, colors, strict=True))):
            label(drawing, text, font, position, color)

    def points(self, points: np.ndarray, color: Color) -> None:
        """Discs at points (N, 2), with a black border."""
        drawing, radius = ImageDraw.Draw(self.image), max(2, mean_side(self.image) / 160)
        for x, y in points * self.zoom:
            drawing.ellipse((x - radius, y - radius, x + radius, y + radius), fill=color, outline=(0, 0, 0))

    def lines(self, lines: np.ndarray, color: Color) -> None:
        """Line segments (N, 2, 2), from point to point."""
        drawing, width = ImageDraw.Draw(self.image), max(1, round(mean_side(self.image) / 280))
        for line in lines * self.zoom:
            drawing.line([tuple(point) for point in line.tolist()], fill=color, width=width)


def as_mask(where: np.ndarray) -> np.ndarray:
    return np.where(where, 255, 0).astype(np.uint8)


def enlarged(pixels: np.ndarray, zoom: int) -> Image.Image:
    image = Image.fromarray(pixels)
    return image.resize((image.width * zoom, image.height * zoom), Image.Resampling.NEAREST)


def mean_side(image: Image.Image) -> float:
    return float((image.width * image.height) ** 0.5)


def _inside(box: np.ndarray, canvas: Image.Image) -> Box:
    xs = np.sort(np.clip(box[[0, 2]], 0, canvas.width - 1))
    ys = np.sort(np.clip(box[[1, 3]], 0, canvas.height - 1))
    return float(xs[0]), float(ys[0]), float(xs[1]), float(ys[1])


def font_of(canvas: Image.Image) -> Font:
    return ImageFont.load_default(max(12, round(mean_side(canvas) / 42)))


def shortened(drawing: ImageDraw.ImageDraw, name: str, suffix: str, font: Font, width: float) -> str:
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


def label(drawing: ImageDraw.ImageDraw, text: str, font: Font, position: Box, color: tuple[int, int, int]) -> None:
    drawing.rectangle(position, fill=color)
    x, y, _, y2 = position
    drawing.text((x + (y2 - y) / 6, (y + y2) / 2), text, fill=text_color(color), font=font, anchor="lm")


def text_color(background: tuple[int, int, int]) -> tuple[int, int, int]:
    """Black or white, whichever has the higher contrast (relative luminance, WCAG 2.1)."""
    linear = [c / 3294.6 if c <= 10 else ((c / 255 + 0.055) / 1.055) ** 2.4 for c in background]
    luminance = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
    return (0, 0, 0) if (luminance + 0.05) ** 2 > 0.05 * 1.05 else (255, 255, 255)
