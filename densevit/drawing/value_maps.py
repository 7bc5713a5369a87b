"""Draws maps of depth and other positive values in colours, each with a colour bar."""

import importlib
import math
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from PIL import Image, ImageDraw

from densevit.drawing.fonts import draw_text, line_height, text_width
from densevit.evaluation.depth_alignment import least_squares

UNKNOWN = (128, 128, 128)
TOO_NEAR, CORRECT, TOO_FAR = (33, 102, 172), (255, 255, 255), (178, 24, 43)
LEVELS = 256
ERROR_LIMITS = (0.05, 0.1, 0.25, 0.5, 1.0)  # possible ends of an error map's colour bar
PERCENTILES = (1, 99)  # of depth, at the ends of the colour bar; values beyond are clipped


@dataclass(frozen=True)
class ColoredMap:
    """A map in colours. pixels: (H, W, 3) uint8. colormap: (256, 3) uint8, the colour bar from left to right.

    labels: tick positions on the colour bar, from 0 (left) to 1, with their texts.
    """

    pixels: np.ndarray
    colormap: np.ndarray
    labels: Sequence[tuple[float, str]]


def value_map_panels(
    prediction: np.ndarray, truth: np.ndarray | None, unit: str, inverse: bool, zoom: int, font_size: int
) -> dict[str, Image.Image]:
    """Draws truth, prediction and relative error with colour bars, enlarged by `zoom`. Returns images by caption.

    The scale is logarithmic from bright (near) to dark (far), and the same for truth and prediction; unknown pixels are
    grey. The error map shows (prediction - truth) / truth: blue is too near, red is too far.

    prediction, truth: (H, W), 0 = unknown. inverse: whether the prediction is relative inverse depth, which is aligned
    to the ground truth by least squares, or drawn unaligned without ground truth.
    """
    depth_truth = None if truth is None else truth.astype(np.float64)
    if depth_truth is not None and not _valid(depth_truth).any():
        depth_truth = None
    maps = _maps(prediction.astype(np.float64), depth_truth, unit, inverse)
    return {caption: _with_bar(colored, zoom, font_size) for caption, colored in maps.items()}


def _maps(prediction: np.ndarray, depth_truth: np.ndarray | None, unit: str, inverse: bool) -> dict[str, ColoredMap]:
    if depth_truth is None and inverse:
        return {"relative inverse depth": _inverse_map(prediction)}
    if depth_truth is None:
        return {"prediction": _value_map(prediction, *_range(prediction), unit)}
    prediction = _aligned(prediction, depth_truth) if inverse else prediction
    limits = _range(depth_truth)
    return {
        "truth": _value_map(depth_truth, *limits, unit),
        f"prediction{', aligned' if inverse else ''}": _value_map(prediction, *limits, unit),
        "relative error": _error_map(prediction, depth_truth),
    }


def _valid(depth: np.ndarray) -> np.ndarray:
    return np.isfinite(depth) & (depth > 0)


def _aligned(inverse: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Aligns inverse depth to the truth and returns depth, limited to twice the largest true depth."""
    valid = _valid(truth)
    scale, shift = least_squares(inverse[valid], 1 / truth[valid])
    return 1 / np.maximum(scale * inverse + shift, 0.5 / truth[valid].max())


def _range(depth: np.ndarray) -> tuple[float, float]:
    """Returns two percentiles of depth in metres, the ends of the colour bar; 1 and 2 if no depth is known."""
    values = depth[_valid(depth)]
    near, far = np.percentile(values, PERCENTILES) if values.size else (1.0, 2.0)
    return float(near), float(max(far, near * 1.01))


def _value_map(depth: np.ndarray, near: float, far: float, unit: str) -> ColoredMap:
    valid, colormap = _valid(depth), _sequential_colormap()[::-1]
    levels = _levels(np.log(np.where(valid, depth, near)), math.log(near), math.log(far))
    return ColoredMap(_colored(levels, colormap, valid), colormap, _depth_ticks(near, far, unit))


def _inverse_map(inverse: np.ndarray) -> ColoredMap:
    finite, colormap = np.isfinite(inverse), _sequential_colormap()
    low, high = np.percentile(inverse[finite], PERCENTILES) if finite.any() else (0.0, 1.0)
    levels = _levels(np.where(finite, inverse, low), low, high)
    return ColoredMap(_colored(levels, colormap, finite), colormap, [(0.0, "far"), (1.0, "near")])


def _error_map(prediction: np.ndarray, truth: np.ndarray) -> ColoredMap:
    """Draws the relative error; the colour bar ends at the first of `ERROR_LIMITS` that 95 % of the pixels do not
    exceed."""
    valid, colormap = _valid(truth), _diverging_colormap()
    errors = np.divide(prediction - truth, truth, out=np.zeros_like(truth), where=valid)
    valid &= np.isfinite(errors)
    most = np.percentile(np.abs(errors[valid]), 95) if valid.any() else 0.0
    end = next((end for end in ERROR_LIMITS if most <= end), ERROR_LIMITS[-1])
    labels = [(n / 4, f"{share * end:+g}" if share else "0") for n, share in enumerate((-1, -0.5, 0, 0.5, 1))]
    return ColoredMap(_colored(_levels(np.where(valid, errors, 0), -end, end), colormap, valid), colormap, labels)


def _levels(values: np.ndarray, low: float, high: float) -> np.ndarray:
    """Scales values to (H, W) uint8: 0 at `low` and below, 255 at `high` and above."""
    shares = (values - low) / max(high - low, 1e-12)
    return np.rint(np.clip(shares, 0, 1) * (LEVELS - 1)).astype(np.uint8)


def _colored(levels: np.ndarray, colormap: np.ndarray, valid: np.ndarray) -> np.ndarray:
    return np.where(valid[..., None], colormap[levels], np.array(UNKNOWN, np.uint8))


def _sequential_colormap() -> np.ndarray:
    """Returns (256, 3) uint8, perceptually uniform from dark to bright."""
    steps = np.arange(LEVELS, dtype=np.uint8)[:, None]
    return np.asarray(cv2.applyColorMap(steps, cv2.COLORMAP_INFERNO)[:, 0, ::-1])


def _diverging_colormap() -> np.ndarray:
    """Returns (256, 3) uint8, from too near over correct to too far."""
    channels = zip(TOO_NEAR, CORRECT, TOO_FAR, strict=True)
    steps = np.linspace(0, 2, LEVELS)
    return np.stack([np.interp(steps, (0, 1, 2), ends) for ends in channels], 1).round().astype(np.uint8)


def _depth_ticks(near: float, far: float, unit: str) -> list[tuple[float, str]]:
    """Returns ticks at round depths: 1, 2 and 5 times powers of ten, or equal steps if that gives fewer than 4."""
    powers = range(math.floor(math.log10(near)), math.ceil(math.log10(far)) + 1)
    candidates = [factor * 10.0**power for power in powers for factor in (1, 2, 5)]
    inside = [depth for depth in candidates if near <= depth <= far]
    if len(inside) < 4:
        importlib.import_module("matplotlib")  # before its modules, which several threads import
        from matplotlib.ticker import MaxNLocator  # late: it takes time to import

        steps = MaxNLocator(7, steps=[1, 2, 5, 10]).tick_values(near, far)
        inside = [depth for depth in steps if near <= depth <= far]
    width = math.log(far / near)
    return [(math.log(depth / near) / width, f"{depth:.4g} {unit}".rstrip()) for depth in inside]


def _with_bar(colored: ColoredMap, zoom: int, font_size: int) -> Image.Image:
    """Draws the enlarged map above its colour bar with ticks; skips labels that would touch the previous label."""
    height, width = (side * zoom for side in colored.pixels.shape[:2])
    line = line_height(font_size)
    canvas = Image.new("RGB", (width, height + 3 * line), (255, 255, 255))
    canvas.paste(Image.fromarray(colored.pixels).resize((width, height), Image.Resampling.NEAREST))
    drawing = ImageDraw.Draw(canvas)

    margin = min(2 * line, width // 4)
    length, upper, lower = max(width - 2 * margin, 2), height + line // 2, height + 3 * line // 2
    strip = Image.fromarray(np.ascontiguousarray(colored.colormap[None])).resize((length, lower - upper))
    canvas.paste(strip, (margin, upper))
    drawing.rectangle((margin - 1, upper - 1, margin + length, lower), outline=(0, 0, 0))
    free_from = 0.0
    for position, text in colored.labels:
        x, half = margin + position * (length - 1), text_width(text, font_size) / 2
        left = min(max(x - half, 0), width - 2 * half)
        if left >= free_from:
            drawing.line((x, lower, x, lower + line / 4), fill=(0, 0, 0), width=max(1, line // 12))
            draw_text(drawing, left, lower + 3 * line / 4, text, font_size, (0, 0, 0))
            free_from = left + 2 * half + line / 2
    return canvas
