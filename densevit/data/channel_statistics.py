"""Range, mean and standard deviation of the channels of training images, which normalise them."""

import dataclasses
import math
from typing import NamedTuple

import numpy as np

from densevit.channels import Channels
from densevit.config import Config
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
    """Sets the backbone's channels, mean and std where the config does not, as measured on the training images.

    8-bit RGB keeps the backbone's mean and std.
    """
    backbone = config.backbone
    if dataset.channels.is_rgb or backbone.channels is not None:
        return config
    statistics = measured(dataset)
    mean, std = backbone.mean or statistics.mean, backbone.std or statistics.std
    update = {"channels": statistics.channels, "mean": mean, "std": std}
    return config.model_copy(update={"backbone": backbone.model_copy(update=update)})


def measured(dataset: Dataset) -> Statistics:
    """Measures up to 200 evenly spaced images of a data set, on a grid of up to 16,384 pixels each; cached until their
    files change. Without a given range, the range is from the 0.1th to the 99.9th percentile.

    Raises DataError for a channel without data or with one value only, and for a range that clips all of its values.
    """
    indices = np.unique(np.linspace(0, len(dataset) - 1, _IMAGES).round().astype(int)).tolist()
    path = getattr(dataset, "path", None)
    images = [str(path(index)) for index in indices] if callable(path) else []
    files = [file for image in images for file in channel_paths(image, dataset.channels)]
    key = ["channels", name_of(dataset), repr(dataset.channels), files]
    arrays = cached_scan(key, lambda: {"values": _values(dataset, indices)}, lambda _: files, bool(files))
    return statistics_of(arrays["values"], dataset.channels, name_of(dataset))


def statistics_of(values: np.ndarray, channels: Channels, name: str) -> Statistics:
    """Computes the statistics of pixels (C, N) float32; NaN is no data. name: the data set's, for messages."""
    ranges, mean, std = [], [], []
    for i, (channel, pixels) in enumerate(zip(channels.names, values, strict=True)):
        pixels = pixels[np.isfinite(pixels)]
        if not len(pixels) or pixels.min() == pixels.max():
            content = f"only the value {pixels[0]:g}" if len(pixels) else "no data"
            raise DataError(
                f"{name}: the channel {channel!r} has {content} in the training images that were read. Fix: leave it "
                "out of the files."
            )
        low, high = channels.range[i] if channels.range else np.percentile(pixels, _PERCENTILES).tolist()
        if low == high:
            low, high = float(pixels.min()), float(pixels.max())
        if pixels.max() <= low or pixels.min() >= high:
            raise DataError(
                f"{name}: the range {low:g} ... {high:g} clips all values of the channel {channel!r}, which are "
                f"{pixels.min():g} ... {pixels.max():g}. Fix: data.range=percentile, or [low, high] of the values."
            )
        scaled = (pixels.clip(low, high).astype(np.float64) - low) / (high - low)
        ranges.append((float(low), float(high)))
        mean.append(round(float(scaled.mean()), 6))
        std.append(round(max(float(scaled.std()), 1e-3), 6))
    return Statistics(dataclasses.replace(channels, range=tuple(ranges)), tuple(mean), tuple(std))


def _values(dataset: Dataset, indices: list[int]) -> np.ndarray:
    """Reads pixels (C, N) float32 of these images; leaves out images that cannot be read."""
    pixels = []
    for index in indices:
        try:
            image = dataset[index]["image"].numpy()
        except UnreadableFileError:
            continue
        step = math.ceil(math.sqrt(image[0].size / _PIXELS))
        pixels.append(image[:, ::step, ::step].reshape(len(image), -1).astype(np.float32))
    if not pixels:
        raise DataError(f"{name_of(dataset)}: none of {len(indices)} images can be read.")
    return np.concatenate(pixels, axis=1)
