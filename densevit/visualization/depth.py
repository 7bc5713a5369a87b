"""Depth drawn in colours, each map over a bar that says which colour is how far."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from densevit.evaluation.depth_alignment import least_squares
from densevit.visualization.curves import ticks

UNKNOWN = (128, 128, 128)
TOO_NEAR, RIGHT, TOO_FAR = (33, 102, 172), (255, 255, 255), (178, 24, 43)
LEVELS = 256
ERRORS = (0.05, 0.1, 0.25, 0.5, 1.0)  # where an error map's bar may end
TOLD_APART = (1, 99)  # per cent of the depths; what is beyond has the colour of the bar's end

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


@dataclass(frozen=True)
class Colored:
    """A map in colours. pixels: (H, W, 3) uint8. ramp: (256, 3) uint8, the bar's colours from left to right.

    labels: texts with their places on the bar, from 0, its left end, to 1.
    """

    pixels: np.ndarray
    ramp: np.ndarray
    labels: Sequence[tuple[float, str]]


def has_depth(result: Mapping[str, Any]) -> bool:
    """Whether there is a map of depth, or of relative inverse depth."""
    return "depth" in result or "inverse_depth" in result


def depth_panels(
    picture: Image.Image, predictions: Mapping[str, Any], truth: Mapping[str, Any] | None, zoom: int, font: Font
) -> dict[str, Image.Image]:
    """The picture and its maps, each over its bar, by their captions: truth, prediction and errors.

    Near is bright and far dark, in equal steps for equal ratios and the same colours for truth and prediction; what is
    unknown is grey. The error map shows (prediction - truth) / truth: blue is too near, red too far. Relative inverse
    depth is aligned to the truth by least squares first; without a truth it is drawn as it is.

    picture: enlarged by `zoom`. predictions: depth or inverse_depth (H, W). truth: with depth (H, W), 0 = unknown.
    """
    known = _map(truth["depth"]) if truth is not None and "depth" in truth else None
    maps = _maps(predictions, known if known is not None and _valid(known).any() else None)
    bars = {caption: _with_bar(colored, zoom, font) for caption, colored in maps.items()}
    blank = Image.new("RGB", next(iter(bars.values())).size, (255, 255, 255))
    blank.paste(picture)
    return {"picture": blank} | bars


def _maps(predictions: Mapping[str, Any], known: np.ndarray | None) -> dict[str, Colored]:
    if "depth" in predictions:
        prediction, caption = _map(predictions["depth"]), "prediction"
    elif known is None:
        return {"relative inverse depth": _inverse_map(_map(predictions["inverse_depth"]))}
    else:
        prediction, caption = _aligned(_map(predictions["inverse_depth"]), known), "prediction, aligned"
    near, far = _range(prediction if known is None else known)
    maps = {caption: _distance_map(prediction, near, far)}
    if known is None:
        return maps
    return {"truth": _distance_map(known, near, far)} | maps | {"relative error": _error_map(prediction, known)}


def _map(values: Any) -> np.ndarray:
    """(H, W) float64."""
    array = values.detach().float().cpu().numpy() if hasattr(values, "detach") else np.asarray(values)
    return array.astype(np.float64)


def _valid(depth: np.ndarray) -> np.ndarray:
    return np.isfinite(depth) & (depth > 0)


def _aligned(inverse: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Depth, at most twice the farthest that is known."""
    valid = _valid(known)
    scale, shift = least_squares(inverse[valid], 1 / known[valid])
    return 1 / np.maximum(scale * inverse + shift, 0.5 / known[valid].max())


def _range(depth: np.ndarray) -> tuple[float, float]:
    """The nearest and the farthest depth that are told apart; 1 and 2 where nothing is known."""
    found = depth[_valid(depth)]
    near, far = np.percentile(found, TOLD_APART) if found.size else (1.0, 2.0)
    return float(near), float(max(far, near * 1.01))


def _distance_map(depth: np.ndarray, near: float, far: float) -> Colored:
    valid, ramp = _valid(depth), _even_colors()[::-1]
    levels = _levels(np.log(np.where(valid, depth, near)), math.log(near), math.log(far))
    return Colored(_painted(levels, ramp, valid), ramp, _distances(near, far))


def _inverse_map(inverse: np.ndarray) -> Colored:
    finite, ramp = np.isfinite(inverse), _even_colors()
    low, high = np.percentile(inverse[finite], TOLD_APART) if finite.any() else (0.0, 1.0)
    levels = _levels(np.where(finite, inverse, low), low, high)
    return Colored(_painted(levels, ramp, finite), ramp, [(0.0, "far"), (1.0, "near")])


def _error_map(prediction: np.ndarray, known: np.ndarray) -> Colored:
    """Its bar ends at the first of `ERRORS` that 95 % of the pixels do not exceed."""
    valid, ramp = _valid(known), _signed_colors()
    errors = np.divide(prediction - known, known, out=np.zeros_like(known), where=valid)
    valid &= np.isfinite(errors)
    most = np.percentile(np.abs(errors[valid]), 95) if valid.any() else 0.0
    end = next((end for end in ERRORS if most <= end), ERRORS[-1])
    labels = [(n / 4, f"{share * end:+g}" if share else "0") for n, share in enumerate((-1, -0.5, 0, 0.5, 1))]
    return Colored(_painted(_levels(np.where(valid, errors, 0), -end, end), ramp, valid), ramp, labels)


def _levels(values: np.ndarray, low: float, high: float) -> np.ndarray:
    """(H, W) uint8: 0 at `low` and below, 255 at `high` and above."""
    shares = (values - low) / max(high - low, 1e-12)
    return np.rint(np.clip(shares, 0, 1) * (LEVELS - 1)).astype(np.uint8)


def _painted(levels: np.ndarray, ramp: np.ndarray, known: np.ndarray) -> np.ndarray:
    return np.where(known[..., None], ramp[levels], np.array(UNKNOWN, np.uint8))


def _even_colors() -> np.ndarray:
    """(256, 3) uint8, dark to bright in steps that look even, also in grey."""
    steps = np.arange(LEVELS, dtype=np.uint8)[:, None]
    return np.asarray(cv2.applyColorMap(steps, cv2.COLORMAP_INFERNO)[:, 0, ::-1])


def _signed_colors() -> np.ndarray:
    """(256, 3) uint8, from too near over right to too far."""
    channels = zip(TOO_NEAR, RIGHT, TOO_FAR, strict=True)
    steps = np.linspace(0, 2, LEVELS)
    return np.stack([np.interp(steps, (0, 1, 2), ends) for ends in channels], 1).round().astype(np.uint8)


def _distances(near: float, far: float) -> list[tuple[float, str]]:
    """Round depths between the ends: 1, 2 and 5 times powers of ten, or equal steps where these are too few."""
    powers = range(math.floor(math.log10(near)), math.ceil(math.log10(far)) + 1)
    rounds = [factor * 10.0**power for power in powers for factor in (1, 2, 5)]
    inside = [depth for depth in rounds if near <= depth <= far]
    if len(inside) < 4:
        inside = [depth for depth in ticks(near, far, about=6) if near <= depth <= far]
    width = math.log(far / near)
    return [(math.log(depth / near) / width, f"{depth:.4g} m") for depth in inside]


def _with_bar(colored: Colored, zoom: int, font: Font) -> Image.Image:
    """The map, enlarged, over its bar with ticks and labels; a label that would touch the one before is left out."""
    height, width = (side * zoom for side in colored.pixels.shape[:2])
    pen = ImageDraw.Draw(Image.new("RGB", (1, 1)))
    _, top, _, bottom = pen.textbbox((0, 0), "0 m", font)
    line = round(bottom + top)
    sheet = Image.new("RGB", (width, height + 3 * line), (255, 255, 255))
    sheet.paste(Image.fromarray(colored.pixels).resize((width, height), Image.Resampling.NEAREST))
    pen = ImageDraw.Draw(sheet)

    margin = min(2 * line, width // 4)
    length, upper, lower = max(width - 2 * margin, 2), height + line // 2, height + 3 * line // 2
    strip = Image.fromarray(np.ascontiguousarray(colored.ramp[None])).resize((length, lower - upper))
    sheet.paste(strip, (margin, upper))
    pen.rectangle((margin - 1, upper - 1, margin + length, lower), outline=(0, 0, 0))
    free = 0.0
    for place, text in colored.labels:
        x, half = margin + place * (length - 1), pen.textlength(text, font) / 2
        left = min(max(x - half, 0), width - 2 * half)
        if left >= free:
            pen.line((x, lower, x, lower + line / 4), fill=(0, 0, 0), width=max(1, line // 12))
            pen.text((left, lower + line / 4), text, fill=(0, 0, 0), font=font, anchor="la")
            free = left + 2 * half + line / 2
    return sheet
