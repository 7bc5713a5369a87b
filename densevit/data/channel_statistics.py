"""Range, mean and standard deviation of the channels of training images, which normalise them."""

import dataclasses
import math
from typing import NamedTuple

import numpy as np

from densevit.channels import Channels
from densevit.config import Config
from densevit.data.datasets.dataset_validation import STRICT_SCAN
from densevit.data.datasets.scan_cache import cached_scan
from densevit.data.io.channel_files import channel_paths
from densevit.data.sample_checks import name_of
from densevit.errors import DataError, UnreadableFileError
from densevit.interfaces import Dataset

_IMAGES, _PIXELS = 200, 1 << 14  # images, and pixels of each
_PERCENTILES = (0.1, 99.9)


class Statistics(NamedTuple):
    """Channels with their ranges, and mean and standard deviation (C,) of the values scaled to 0 ... 1."""

    channels: Channels
    mean: tuple[float, ...]
    std: tuple[float, ...]


def with_channels(config: Config, dataset: Dataset) -> Config:
    """The config with the channels of the backbone's images, and their mean and standard deviation, if it does not have
    them: those of its training images. RGB of 8 bits has the backbone's own."""
    own = config.backbone
    if dataset.channels.is_rgb or own.channels is not None:
        return config
    found = measured(dataset)
    update = {"channels": found.channels, "mean": own.mean or found.mean, "std": own.std or found.std}
    return config.model_copy(update={"backbone": own.model_copy(update=update)})


def measured(dataset: Dataset) -> Statistics:
    """Measures at most 200 images of a data set, at even distances, and a grid of at most 16,384 pixels of each; cached
    until their files change. A range that is not given is that of the percentiles 0.1 to 99.9.

    Raises DataError for a channel without data or with one value only, and for a range that clips all of its values.
    """
    indices = np.unique(np.linspace(0, len(dataset) - 1, _IMAGES).round().astype(int)).tolist()
    path = getattr(dataset, "path", None)
    images = [str(path(index)) for index in indices] if callable(path) else []
    files = [file for image in images for file in channel_paths(image, dataset.channels)]
    key = ["channels", name_of(dataset), repr(dataset.channels), files]
    arrays = cached_scan(STRICT_SCAN, key, lambda: {"values": _values(dataset, indices)}, lambda _: files, bool(files))
    return statistics_of(arrays["values"], dataset.channels, name_of(dataset))


def statistics_of(values: np.ndarray, channels: Channels, name: str) -> Statistics:
    """The statistics of pixels (C, N) float32, with NaN where there is no data. name: that of the data set."""
    ranges, mean, std = [], [], []
    for i, (channel, own) in enumerate(zip(channels.names, values, strict=True)):
        own = own[np.isfinite(own)]
        if not len(own) or own.min() == own.max():
            found = f"only the value {own[0]:g}" if len(own) else "no data"
            raise DataError(
                f"{name}: the channel {channel!r} has {found} in the training images that were read. Fix: leave it out "
                "of the files."
            )
        low, high = channels.range[i] if channels.range else np.percentile(own, _PERCENTILES).tolist()
        if low == high:
            low, high = float(own.min()), float(own.max())
        if own.max() <= low or own.min() >= high:
            raise DataError(
                f"{name}: the range {low:g} ... {high:g} clips all values of the channel {channel!r}, which are "
                f"{own.min():g} ... {own.max():g}. Fix: data.range=percentile, or [low, high] of the values."
            )
        scaled = (own.clip(low, high).astype(np.float64) - low) / (high - low)
        ranges.append((float(low), float(high)))
        mean.append(round(float(scaled.mean()), 6))
        std.append(round(max(float(scaled.std()), 1e-3), 6))
    return Statistics(dataclasses.replace(channels, range=tuple(ranges)), tuple(mean), tuple(std))


def _values(dataset: Dataset, indices: list[int]) -> np.ndarray:
    """Pixels (C, N) float32 of these images; those that cannot be read are left out."""
    found = []
    for index in indices:
        try:
            image = dataset[index]["image"].numpy()
        except UnreadableFileError:
            continue
        step = math.ceil(math.sqrt(image[0].size / _PIXELS))
        found.append(image[:, ::step, ::step].reshape(len(image), -1).astype(np.float32))
    if not found:
        raise DataError(f"{name_of(dataset)}: none of {len(indices)} images can be read.")
    return np.concatenate(found, axis=1)
