"""Detects wrong units: measures the depth of a data set and checks that it is plausible in metres."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from densevit.data.datasets.depth_values import DepthValues
from densevit.errors import DataError, counted, listed

MOST_FILES = 128  # to read, evenly spaced
_MOST_VALUES = 1 << 14  # per file, for the median
_OTHER_UNIT = 6.0  # ratio of the median of a file to the median of all
_UNITS = (
    ("millimetres", 0.001),
    ("1/256 m, as in KITTI", 1 / 256),
    ("1/5000 m, as in TUM RGB-D", 1 / 5000),
    ("centimetres", 0.01),
    ("metres", 1.0),
)


class FileRange(NamedTuple):
    """The known depth of a file.

    values: a sample of known depth, for the median. low, high: its limits. known_pixels, pixels: numbers of pixels with
    known depth and of all.
    """

    values: np.ndarray
    low: float
    high: float
    known_pixels: int
    pixels: int

    @classmethod
    def of(cls, depth: np.ndarray) -> "FileRange":
        """Measures a depth map (H, W), 0 = unknown."""
        known_depth = depth[depth > 0]
        step = -(-len(known_depth) // _MOST_VALUES) or 1
        low, high = known_depth.min(initial=np.inf), known_depth.max(initial=0)
        return cls(known_depth[::step], low, high, len(known_depth), depth.size)


@dataclass(frozen=True)
class DepthRange:
    """Statistics of some depth maps.

    known_share: the share of pixels with known depth. files: the number of files read. medians: the median of each file
    with known depth, by name.
    """

    low: float
    median: float
    high: float
    known_share: float
    files: int
    medians: Mapping[str, float]

    @classmethod
    def of(cls, files: Mapping[str, FileRange], where: str) -> "DepthRange":
        """Joins the ranges of files, by name. where: their origin, for messages. Raises DataError if no depth is
        known."""
        chosen = {name: files[name] for name in sorted(files) if files[name].known_pixels}
        if not chosen:
            raise DataError(
                f"None of {len(files)} depth maps {where} holds a depth above 0. Check data.scale, data.depth_type and "
                "data.unknown.values."
            )
        median = float(np.median(np.concatenate([file.values for file in chosen.values()])))
        low, high = min(file.low for file in chosen.values()), max(file.high for file in chosen.values())
        share = sum(file.known_pixels for file in files.values()) / sum(file.pixels for file in files.values())
        return cls(
            float(low),
            median,
            float(high),
            share,
            len(files),
            medians={name: float(np.median(file.values)) for name, file in chosen.items()},
        )


def described(seen: DepthRange, values: DepthValues, count: int) -> str:
    """Returns the range in one line. count: the number of all files."""
    return (
        f"{_shown(seen.low)} to {_shown(seen.high)}{values.unit or ' (relative, without unit)'}, median "
        f"{_shown(seen.median)}{values.unit}, {seen.known_share:.1%} of pixels known (read {seen.files} of {count})"
    )


def other_units(medians: Mapping[str, float]) -> list[str]:
    """Returns a line about the files with a median far below that of the others, and one about those far above.

    medians: the median depth of each file, by name.
    """
    typical = float(np.median([*medians.values()])) if medians else 0.0
    ratios = {
        word: {name: ratio for name, median in medians.items() if (ratio := (median / typical) ** sign) >= _OTHER_UNIT}
        for word, sign in (("below", -1), ("above", 1))
    }
    return [
        f"{len(unlike):,} of {counted(len(medians), 'file')} have a median {np.median([*unlike.values()]):.2g} times "
        f"{word} the others: {listed(unlike)}. Are they in other units? Fix: scale them as the others."
        for word, unlike in ratios.items()
        if unlike
    ]


def implausible(split: str, seen: DepthRange, values: DepthValues, expected: tuple[float, float]) -> str:
    """Returns the error message, with the likely fix, if the median of metric depth is outside of the expected range;
    otherwise ""."""
    low, high = expected
    if not values.metric or low <= seen.median <= high:
        return ""
    return (
        f"data.depth_range: the depth of {split!r} has a median of {_shown(seen.median)} m ({_shown(seen.low)} to "
        f"{_shown(seen.high)} m in {seen.files} files); expected {low:g} to {high:g} m. "
        f"{_fix(seen.median, values, expected)}"
    )


def wrong_scale(stored: np.ndarray, path: str, values: DepthValues, expected: tuple[float, float]) -> str:
    """Returns the message about a file of integers without data.scale, or of 8 bits with a scale for 16 bits; "" for
    other files."""
    largest = 255 * (values.scale or 1.0)
    if stored.dtype == np.uint8 and values.metric and values.depth_type == "depth" and largest < min(1, expected[1]):
        return (
            f"{path} has 8 bits, whose largest depth is {largest:.3g} m with data.scale={values.scale:g}, a scale for "
            f"16 bits. Fix: save depth as PNG of 16 bits; or set data.scale=MAX_DEPTH/255, {10 / 255:.3g} for 10 m. If "
            f"this is right, set data.depth_range=[{min(largest / 255, expected[0]):.2g},{largest:.3g}], in metres."
        )
    if not values.needs_scale or stored.dtype.kind not in "iu":
        return ""
    known_values = stored[stored > 0]
    median = float(np.median(known_values)) if len(known_values) else 0.0
    unit = "metres" if values.depth_type == "depth" else "1/metres"
    guess = _looks_like(median, 0.0, expected) if values.depth_type == "depth" else ""
    return (
        f"data.scale is missing: {path} holds whole numbers ({stored.min()} to {stored.max()}, median {median:g}), and "
        f"data.scale is the number of {unit} per unit in a file. {guess}".rstrip()
    )


def _shown(depth: float) -> str:
    """Formats depth with three digits, common values without an exponent."""
    return f"{depth:.0f}" if 1000 <= depth < 1e7 else f"{depth:.3g}"


def _fix(median: float, values: DepthValues, expected: tuple[float, float]) -> str:
    """Returns the likely fix."""
    otherwise = "If this is right, set data.depth_range=[LOW,HIGH], in metres."
    if values.depth_type == "depth":
        scale = 1.0 if values.scale is None else values.scale
        guess = _looks_like(median / scale, scale, expected)
        return f"{guess or 'Set data.scale, the number of metres per unit in a file.'} {otherwise}"
    if values.depth_type == "inverse_depth":
        return (
            f"Set data.scale, 1/metres per unit in a file; or data.depth_type=depth, if files store depth. {otherwise}"
        )
    return f"Check data.stereo: baseline (metres), focal and doffs (pixels at the files' size). {otherwise}"


def _looks_like(median: float, scale: float, expected: tuple[float, float]) -> str:
    """Lists the common units in which a stored median is in the expected range. scale: the current unit."""
    fitting = [
        (name, unit)
        for name, unit in _UNITS
        if not np.isclose(unit, scale) and expected[0] <= median * unit <= expected[1]
    ]
    if not fitting:
        return ""
    (name, unit), *alternatives = fitting
    text = f"It looks like {name}: set data.scale={unit:.8g} (median {median * unit:.3g} m)."
    if alternatives:
        texts = (f"{name} (data.scale={unit:.8g}: {median * unit:.3g} m)" for name, unit in alternatives)
        text += f" It could also be {listed(texts)}."
    return text
