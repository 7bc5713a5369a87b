"""The canvas for target types: draws overlays, segments and boxes with labels, points and lines over an image."""

from collections import Counter
from collections.abc import Mapping, Sequence

import cv2
import numpy as np
from PIL import Image, ImageDraw

from densevit.drawing.fonts import draw_text, line_height, text_width

OPACITY = 0.6  # of overlays
OUTLINE = (255, 255, 255)  # of segments

Color = tuple[int, int, int]
Box = tuple[float, float, float, float]


class ImageCanvas:
    """An image, enlarged by an integer factor `zoom`. Coordinates are in pixels of the original image."""

    def __init__(self, image: Image.Image, zoom: int) -> None:
        self.image, self.zoom = image.copy(), zoom

    def overlay(self, colors: np.ndarray, mask: np.ndarray) -> None:
        """Blends colours (H, W, 3) uint8 with the image where mask (H, W) is True."""
        overlay = enlarged(colors, self.zoom)
        self.image.paste(Image.blend(self.image, overlay, OPACITY), mask=enlarged(as_mask(mask), self.zoom))

    def segments(self, ids: np.ndarray, colors: Mapping[int, Color], names: Mapping[int, str]) -> None:
        """Blends the segments of a map of ids (H, W) with the image, with outlines, and names inside.

        Pixels whose id has no colour stay unchanged. Segments of the same colour get different shades. Names of small
        segments are on top.
        """
        values, index = np.unique(ids, return_inverse=True)
        index = index.reshape(ids.shape)
        drawn = np.array([value in colors for value in values.tolist()], bool)
        if not drawn.any():
            return
        palette = np.array(_shades([colors.get(value, (0, 0, 0)) for value in values.tolist()]), np.uint8)
        self.overlay(palette[index], drawn[index])
        line = max(1, round(mean_side(self.image) / 500))
        self.image.paste(
            OUTLINE, mask=Image.fromarray(as_mask(_edges(np.where(drawn[index], index, -1), self.zoom, line)))
        )

        drawing, size = ImageDraw.Draw(self.image), font_size(self.image)
        by_area = np.argsort(np.bincount(index.ravel()), kind="stable")
        labels: list[tuple[str, Box, Color]] = []
        for n in by_area.tolist():
            if (name := names.get(int(values[n]), "")) and drawn[n]:
                text = shortened(name, "", size, 0.95 * self.image.width)
                taken = [position for _, position, _ in labels]
                centre = (_innermost(index == n) + 0.5) * self.zoom
                labels.append((text, _centred_position(text, size, centre, taken, self.image), colors[int(values[n])]))
        for text, position, color in reversed(labels):
            label(drawing, text, size, position, color)

    def boxes(self, boxes: np.ndarray, colors: Sequence[Color], texts: Sequence[tuple[str, str]]) -> None:
        """Outlines boxes (N, 4) xyxy, the first on top, and labels them with little overlap between labels."""
        drawing = ImageDraw.Draw(self.image)
        line = max(2, round(mean_side(self.image) / 280))
        corners = [_inside(box, self.image) for box in boxes * self.zoom]
        for (x1, y1, x2, y2), color in reversed(list(zip(corners, colors, strict=True))):
            # A black border is visible on any background.
            drawing.rectangle((x1 - 1, y1 - 1, x2 + 1, y2 + 1), outline=(0, 0, 0), width=line + 2)
            drawing.rectangle((x1, y1, x2, y2), outline=color, width=line)

        size = font_size(self.image)
        labels: list[str] = []
        positions: list[Box] = []
        for box, (name, suffix) in zip(corners, texts, strict=True):
            labels.append(shortened(name, suffix, size, 0.95 * self.image.width))
            positions.append(_label_position(labels[-1], size, box, positions, self.image))
        for text, position, color in reversed(list(zip(labels, positions, colors, strict=True))):
            label(drawing, text, size, position, color)

    def points(self, points: np.ndarray, color: Color) -> None:
        """Draws discs at points (N, 2), with a black border."""
        drawing, radius = ImageDraw.Draw(self.image), max(2, mean_side(self.image) / 160)
        for x, y in points * self.zoom:
            drawing.ellipse((x - radius, y - radius, x + radius, y + radius), fill=color, outline=(0, 0, 0))

    def lines(self, lines: np.ndarray, color: Color) -> None:
        """Draws line segments (N, 2, 2) between two points each."""
        drawing, width = ImageDraw.Draw(self.image), max(1, round(mean_side(self.image) / 280))
        for line in lines * self.zoom:
            drawing.line([tuple(point) for point in line.tolist()], fill=color, width=width)

    def caption(self, name: str, suffix: str, color: Color) -> None:
        """Writes a label in the upper left corner; only the name is shortened."""
        size = 2 * font_size(self.image)
        text = shortened(name, suffix, size, 0.9 * self.image.width)
        label(ImageDraw.Draw(self.image), text, size, (0.0, 0.0, *_label_size(text, size)), color)


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


def font_size(canvas: Image.Image) -> int:
    """Returns the font size in pixels for text in an image of this size."""
    return max(12, round(mean_side(canvas) / 42))


def shortened(name: str, suffix: str, size: int, width: float) -> str:
    """Joins a name and a suffix, and truncates the name so that both fit into `width` pixels."""
    text = name + suffix
    while len(name) > 1 and text_width(text, size) > width:
        name = name[:-1]
        text = f"{name}…{suffix}"
    return text


def _label_position(text: str, size: int, box: Box, taken: Sequence[Box], canvas: Image.Image) -> Box:
    """Returns the position for a label at its box, inside the image, with the least overlap with previous labels."""
    x1, y1, x2, y2 = box
    width, height = _label_size(text, size)
    corners = [(x1, y1 - height), (x1, y1), (x1, y2), (x1, y2 - height), (x2 - width, y1 - height), (x2 - width, y2)]
    side = [(x2, y1), (x1 - width, y1)]
    return _freest((*corners, *side), (width, height), taken, canvas)


def _centred_position(text: str, size: int, centre: np.ndarray, taken: Sequence[Box], canvas: Image.Image) -> Box:
    """Returns the position for a label around a point (2,), or next to it, with the least overlap with previous
    labels."""
    width, height = _label_size(text, size)
    shifts = [(0, 0), (0, -1), (0, 1), (-1, 0), (1, 0), (-1, -1), (1, -1), (-1, 1), (1, 1), (0, -2), (0, 2)]
    x, y = centre - np.array([width, height]) / 2
    corners = [(float(x + dx * width), float(y + dy * height)) for dx, dy in shifts]
    return _freest(corners, (width, height), taken, canvas)


def _label_size(text: str, size: int) -> tuple[float, float]:
    """Returns width and height of a label in pixels."""
    height = line_height(size)
    return text_width(text, size) + height / 3, height


def _freest(
    corners: Sequence[tuple[float, float]], size: tuple[float, float], taken: Sequence[Box], canvas: Image.Image
) -> Box:
    """Returns the box at one of these corners, moved into the image, with the least overlap with the boxes in
    `taken`."""
    width, height = size
    right, bottom = max(canvas.width - width, 0), max(canvas.height - height, 0)
    inside = ((min(max(x, 0), right), min(max(y, 0), bottom)) for x, y in corners)
    positions = [(x, y, x + width, y + height) for x, y in inside]
    return min(positions, key=lambda position: sum(_overlap(position, other) for other in taken))


def _shades(colors: Sequence[Color]) -> list[Color]:
    """Varies repeated colours by up to five shades."""
    count: Counter[Color] = Counter()
    shades = []
    for color in colors:
        red, green, blue = (round(value * (1 - 0.12 * (count[color] % 5))) for value in color)
        shades.append((red, green, blue))
        count[color] += 1
    return shades


def _edges(ids: np.ndarray, zoom: int, width: int) -> np.ndarray:
    """Returns (zoom * H, zoom * W) bool: the pixels within `width` pixels of another id."""
    enlarged_ids = ids.repeat(zoom, axis=0).repeat(zoom, axis=1)
    edges = np.zeros(enlarged_ids.shape, np.uint8)
    edges[:, 1:] |= enlarged_ids[:, 1:] != enlarged_ids[:, :-1]
    edges[1:] |= enlarged_ids[1:] != enlarged_ids[:-1]
    return np.asarray(cv2.dilate(edges, np.ones((2 * width, 2 * width), np.uint8)) > 0)


def _innermost(mask: np.ndarray) -> np.ndarray:
    """Returns (2,) x and y of the pixel of a mask (H, W) that is farthest from the mask's outside and the image
    border."""
    framed = cv2.copyMakeBorder(mask.view(np.uint8), 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=0)
    distance = cv2.distanceTransform(framed, cv2.DIST_L2, cv2.DIST_MASK_3)
    y, x = np.unravel_index(distance.argmax(), distance.shape)
    return np.array([x - 1, y - 1], float)


def _overlap(a: Box, b: Box) -> float:
    return max(0.0, min(a[2], b[2]) - max(a[0], b[0])) * max(0.0, min(a[3], b[3]) - max(a[1], b[1]))


def label(drawing: ImageDraw.ImageDraw, text: str, size: int, position: Box, color: Color) -> None:
    drawing.rectangle(position, fill=color)
    x, y, _, y2 = position
    draw_text(drawing, x + (y2 - y) / 6, (y + y2) / 2, text, size, text_color(color))


def text_color(background: tuple[int, int, int]) -> tuple[int, int, int]:
    """Returns black or white, whichever has the higher contrast (relative luminance, WCAG 2.1)."""
    linear = [c / 3294.6 if c <= 10 else ((c / 255 + 0.055) / 1.055) ** 2.4 for c in background]
    luminance = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
    return (0, 0, 0) if (luminance + 0.05) ** 2 > 0.05 * 1.05 else (255, 255, 255)
