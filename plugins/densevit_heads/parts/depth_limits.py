"""Compares the largest depth that a head predicts with the depth of training images."""

import math
import warnings

import numpy as np

from densevit.errors import ConfigError, DataError
from densevit.interfaces import Dataset
from densevit.losses.depth import canonical_depth

_IMAGES, _VALUES = 32, 1 << 14  # images, and depths of each
_FEW = 0.001  # share of pixels beyond the maximum; fewer are sensor errors


def check_max_depth(dataset: Dataset, max_depth: float, canonical_focal: float | None = None) -> None:
    """Raises ConfigError if the median depth of images is beyond max_depth, in metres; warns of pixels beyond it.

    canonical_focal: pixels, of the camera whose depth `max_depth` limits. Raises DataError without a focal length.
    """
    indices = np.unique(np.linspace(0, len(dataset) - 1, _IMAGES).round().astype(int)).tolist() if len(dataset) else []
    maps = [depths for index in indices if len(depths := _known_depths(dataset, index, canonical_focal))]
    largest = max((float(depths.max()) for depths in maps), default=0.0)
    if largest <= max_depth:
        return
    values = np.concatenate([depths[:: -(-len(depths) // _VALUES)] for depths in maps])
    median, beyond = float(np.median(values)), float((values > max_depth).mean())
    camera = "" if canonical_focal is None else ", in the metres of the canonical camera,"
    problem = (
        f"max_depth is {max_depth:g} m, but the depth of {len(maps)} training images{camera} has a median "
        f"of {median:.3g} m and a maximum of {largest:.4g} m: {beyond:.1%} of the pixels are beyond max_depth and not "
        f"trained on. Fix: heads.depth.max_depth={math.ceil(largest)}, "
        f"or data.unknown.above={max_depth:g} for sensor errors."
    )
    if median > max_depth:
        raise ConfigError(f"cannot predict most depths: {problem}")
    if beyond >= _FEW:
        warnings.warn(problem, stacklevel=2)


def _known_depths(dataset: Dataset, index: int, canonical_focal: float | None) -> np.ndarray:
    """(N,), in metres; empty for an image that cannot be read, which the data set reports."""
    try:
        targets = dataset[index]["targets"]
    except DataError:
        return np.zeros(0)
    depth = np.asarray(canonical_depth(targets, canonical_focal) if "depth" in targets else ())
    return depth[depth > 0]
