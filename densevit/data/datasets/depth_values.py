"""Converts the values of depth files, which are depth, disparity or inverse depth, to depth with 0 = unknown."""

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np

from densevit.data.io.text_files import read_text
from densevit.errors import DataError

Kind = Literal["depth", "disparity", "inverse_depth"]

_NUMBER = r"([-+]?[\d.]+(?:[eE][-+]?\d+)?)"


@dataclass(frozen=True)
class Calibration:
    """Stereo calibration: depth = baseline * focal / (disparity + doffs). baseline in metres, the others in pixels.

    doffs: the horizontal offset of the two principal points.
    """

    baseline: float
    focal: float
    doffs: float = 0.0

    def __post_init__(self) -> None:
        for name in ("baseline", "focal"):
            if not 0 < getattr(self, name) < np.inf:
                raise DataError(f"{name} is {getattr(self, name):g}; expected a number above 0.")

    @classmethod
    def read(cls, path: str | Path) -> "Calibration":
        """Reads a calib.txt of Middlebury (2014): cam0=[focal 0 cx; ...], doffs, and baseline in millimetres."""
        text = read_text(Path(path))
        found = [
            re.search(rf"^\s*{name}\s*=\s*\[?\s*{_NUMBER}", text, re.MULTILINE)
            for name in ("baseline", "cam0", "doffs")
        ]
        if found[0] is None or found[1] is None:
            raise DataError(
                f"{path} has no {'cam0' if found[0] else 'baseline'}; expected cam0=[focal 0 cx; ...], "
                "doffs=... and baseline=..., as in Middlebury's calib.txt."
            )
        baseline, focal, doffs = (0.0 if match is None else float(match[1]) for match in found)
        try:
            return cls(baseline / 1000, focal, doffs)
        except DataError as error:
            raise DataError(f"{path}: {error}") from error


@dataclass(frozen=True)
class Unknown:
    """What is unknown depth, besides 0, negative numbers, nan and infinities.

    values: numbers in files. below, above: depth outside of these, in metres.
    """

    values: list[float] = field(default_factory=list)
    below: float = 0.0
    above: float = np.inf

    def __post_init__(self) -> None:
        if not 0 <= self.below < self.above:
            raise DataError(
                f"data.unknown.below is {self.below:g} and data.unknown.above {self.above:g}; expected a smaller below."
            )


@dataclass(frozen=True)
class DepthValues:
    """Converts stored numbers to depth.

    kind: the quantity that stored numbers times scale are: depth; disparity in pixels; or 1 / depth.
    metric: whether the result is in metres; relative disparity needs no calibration.
    calibration: the calibration of disparity, unless each image has its own.
    unknown: what becomes unknown besides 0, negative numbers, nan and infinities.
    """

    kind: Kind = "depth"
    scale: float | None = None
    metric: bool = True
    calibration: Calibration | None = None
    unknown: Unknown = field(default_factory=Unknown)

    @property
    def unit(self) -> str:
        """The unit after a number, " m", or nothing."""
        return " m" if self.metric else ""

    @property
    def needs_scale(self) -> bool:
        """Whether files of integers need a scale, as whole metres are implausible."""
        return self.scale is None and self.metric and self.kind != "disparity"

    def depth(self, stored: np.ndarray, calibration: Calibration | None = None) -> np.ndarray:
        """Returns depth (H, W) float32, 0 = unknown. stored: (H, W) as in the file. calibration: the image's."""
        values = stored.astype(np.float32)
        known = np.isfinite(values) & (values > 0)
        for value in self.unknown.values:
            known &= stored != value if stored.dtype.kind in "iu" else values != np.float32(value)
        values = np.where(known, values, np.float32(1))
        if self.scale is not None:
            values *= np.float32(self.scale)
        if self.kind != "depth":
            stereo = calibration or self.calibration or Calibration(1.0, 1.0)
            if self.kind == "disparity":
                values += np.float32(stereo.doffs)
                known &= values > 0
            factor = stereo.baseline * stereo.focal if self.kind == "disparity" else 1.0
            values = np.divide(np.float32(factor), values, out=np.zeros_like(values), where=known)
        return np.where(known & np.isfinite(values), values, np.float32(0))

    def capped(self, depth: np.ndarray) -> np.ndarray:
        """Returns the depth with 0 where it is unknown by its limits."""
        low, high = self.unknown.below, self.unknown.above
        if not low and high == np.inf:
            return depth
        return np.where((depth >= np.float32(low)) & (depth <= np.float32(high)), depth, np.float32(0))
