"""Compares the largest depth that a head predicts with the depth of training images."""

import math
import warnings

import numpy as np

from densevit.errors import ConfigError, DataError
from densevit.interfaces import Dataset

_IMAGES, _VALUES = 32, 1 << 14  # images, and depths of each
_FEW = 0.001  # share of pixels beyond the maximum; fewer are sensor errors


def check_max_depth(dataset: Dataset, max_depth: float) -> None:
    """Raises ConfigError if the median depth of images is beyond max_depth, in metres; warns of pixels beyond it."""
    indices = np.unique(np.linspace(0, len(dataset) - 1, _IMAGES).round().astype(int)).tolist() if len(dataset) else []
    maps = [depths for index in indices if len(depths := _known_depths(dataset, index))]
    largest = max((float(depths.max()) for depths in maps), default=0.0)
    if largest <= max_depth:
        return
    values = np.concatenate([depths[:: -(-len(depths) // _VALUES)] for depths in maps])
    median, beyond = float(np.median(values)), float((values > max_depth).mean())
    problem = (
        f"max_depth is {max_depth:g} m, but the depth of {len(maps)} training images has a median of {median:.3g} m "
        f"and a maximum of {largest:.4g} m: {beyond:.1%} of the pixels are beyond max_depth and not trained on. Fix: "
        f"heads.depth.max_depth={math.ceil(largest)}, or data.unknown.above={max_depth:g} for sensor errors."
    )
    if median > max_depth:
        raise ConfigError(f"cannot predict most depths: {problem}")
    if beyond >= _FEW:
        warnings.warn(problem, stacklevel=2)


def _known_depths(dataset: Dataset, index: int) -> np.ndarray:
    """(N,), in metres; empty for an image that cannot be read, which the data set reports."""
    try:
        depth = np.asarray(dataset[index]["targets"].get("depth", ()))
    except DataError:
        return np.zeros(0)
    return depth[depth > 0]
