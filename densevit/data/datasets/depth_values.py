"""Converts the values of depth files, which are depth, disparity or inverse depth, to depth with 0 = unknown."""

from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from densevit.errors import DataError

DepthType = Literal["depth", "disparity", "inverse_depth"]


@dataclass(frozen=True)
class Calibration:
    """Stereo calibration: depth = baseline * focal / (disparity + doffs). baseline in metres, focal and doffs in
    pixels.

    doffs: the horizontal offset of the two principal points.
    """

    baseline: float
    focal: float
    doffs: float = 0.0

    def __post_init__(self) -> None:
        for name in ("baseline", "focal"):
            if not 0 < getattr(self, name) < np.inf:
                raise DataError(f"{name} is {getattr(self, name):g}; expected a finite number above 0.")


@dataclass(frozen=True)
class Unknown:
    """Stored values and depths that are unknown, besides 0, negative numbers, nan and infinities.

    values: numbers in files. below, above: limits in metres; depth outside of them is unknown.
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

    depth_type: what stored numbers times scale are: depth; disparity in pixels; or 1 / depth.
    metric: whether the result is in metres; relative disparity needs no calibration.
    calibration: the stereo calibration, for disparity.
    unknown: stored values and depths that mean unknown.
    """

    depth_type: DepthType = "depth"
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
        """Whether files of integers need a scale: whole metres are implausible."""
        return self.scale is None and self.metric and self.depth_type != "disparity"

    def depth(self, stored: np.ndarray) -> np.ndarray:
        """Returns depth (H, W) float32, 0 = unknown. stored: (H, W) as in the file."""
        values = stored.astype(np.float32)
        is_known = np.isfinite(values) & (values > 0)
        for value in self.unknown.values:
            is_known &= stored != value if stored.dtype.kind in "iu" else values != np.float32(value)
        values = np.where(is_known, values, np.float32(1))
        if self.scale is not None:
            values *= np.float32(self.scale)
        if self.depth_type != "depth":
            stereo = self.calibration or Calibration(1.0, 1.0)
            if self.depth_type == "disparity":
                values += np.float32(stereo.doffs)
                is_known &= values > 0
            factor = stereo.baseline * stereo.focal if self.depth_type == "disparity" else 1.0
            values = np.divide(np.float32(factor), values, out=np.zeros_like(values), where=is_known)
        return np.where(is_known & np.isfinite(values), values, np.float32(0))

    def capped(self, depth: np.ndarray) -> np.ndarray:
        """Returns the depth with 0 outside of the limits of `unknown`."""
        low, high = self.unknown.below, self.unknown.above
        if not low and high == np.inf:
            return depth
        return np.where((depth >= np.float32(low)) & (depth <= np.float32(high)), depth, np.float32(0))
