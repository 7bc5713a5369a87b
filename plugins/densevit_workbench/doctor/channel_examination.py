"""Measures the channels of images, and proposes config keys for images other than 8-bit RGB."""

import glob
import math
import os
import re
import shlex
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from densevit.channels import FULL_RANGES, Channels
from densevit.data.io.images import channels_of_files, read_image
from densevit.errors import DataError, counted
from densevit_workbench.channel_names import channel_names, colors_first
from densevit_workbench.doctor.findings import Finding, Severity, evenly_spaced
from densevit_workbench.doctor.source import flow

_PIXELS = 1 << 16  # to measure per channel
_IMAGES = 8  # to read for a proposal
_NODATA = 0.05  # minimum share of pixels likely without data, in the image and on its border
_FILE = re.compile(r"(.+)([_.-][^_.-]+)(\.\w+)")  # of a channel
_CHANNEL_ENDING = re.compile(r"[_.-](red|green|blue|nir|swir\d?|b\d{1,2}a?|dapi|gfp)", re.IGNORECASE)


class ChannelValues(NamedTuple):
    """Measures (C,) of the channels of one image, from about 65,536 evenly spaced pixels, or (N, C) of N images.

    valid: share of pixels with data. low, high, mean, square: minimum, maximum, mean and mean square of these pixels;
    NaN, NaN, 0, 0 without data. nodata: a value that probably marks pixels without data, or NaN. missing: its share.
    saturated, clipped: shares of the remaining pixels at their type's maximum, and outside the channel's range.
    """

    valid: np.ndarray
    low: np.ndarray
    high: np.ndarray
    mean: np.ndarray
    square: np.ndarray
    nodata: np.ndarray
    missing: np.ndarray
    saturated: np.ndarray
    clipped: np.ndarray

    @classmethod
    def stacked(cls, images: Iterable["ChannelValues"]) -> "ChannelValues":
        """The values (N, C) of N images."""
        return cls(*map(np.stack, zip(*images, strict=True)))

    @property
    def likely_nodata(self) -> float:
        """The most frequent `nodata` of all images and channels, or NaN."""
        counts = Counter(self.nodata[~np.isnan(self.nodata)].tolist())
        return counts.most_common(1)[0][0] if counts else math.nan


def channel_values(image: np.ndarray, channels: Channels) -> ChannelValues:
    """Measures an image (C, H, W). The range of the channels may be unknown."""
    step = math.ceil(math.sqrt(image[0].size / _PIXELS))
    top = FULL_RANGES.get(str(image.dtype), (0.0, math.inf))[1]
    ranges = channels.range or ((-math.inf, math.inf),) * len(image)
    planes = zip(image[:, ::step, ::step], ranges, strict=True)
    return ChannelValues(*np.array([_measured(plane, top, *bounds) for plane, bounds in planes]).T)


def _measured(plane: np.ndarray, top: float, low: float, high: float) -> tuple[float, ...]:
    """The `ChannelValues` of one channel (H, W). top: the maximum of its type. low, high: its range."""
    values = plane[np.isfinite(plane)].astype(np.float64)
    if not len(values):
        return (0.0, math.nan, math.nan, 0.0, 0.0, math.nan, 0.0, 0.0, 0.0)
    nodata = _nodata(plane, values)
    rest = values[values != nodata]
    varies = rest.min() < rest.max()  # a constant channel is another finding
    shares = (values == nodata, varies & (rest == top), varies & ((rest < low) | (rest > high)))
    moments = (values.min(), values.max(), values.mean(), np.square(values).mean())
    return (len(values) / plane.size, *moments, nodata, *(share.mean() for share in shares))


def _nodata(plane: np.ndarray, values: np.ndarray) -> float:
    """The minimum or maximum, if it probably marks pixels without data: frequent in the image and on its border, and
    far from all other values. Else NaN."""
    border = np.concatenate([plane[0], plane[-1], plane[:, 0], plane[:, -1]])
    for value in (float(values.min()), float(values.max())):
        rest = values[values != value]
        if len(rest) and min(1 - len(rest) / len(values), (border == value).mean()) > _NODATA:
            low, high = np.percentile(rest, (1, 99))
            if min(abs(low - value), abs(high - value)) > (high - low) / 2 > 0:
                return value
    return math.nan


def proposed_keys(files: Sequence[str]) -> tuple[list[str], Finding] | None:
    """Proposes keys of the section `data` as overrides, with a finding: an error if the images cannot be read as RGB,
    else a warning. None if most images are 8-bit RGB, or none can be read."""
    endings = _endings(files)
    images = [file for file in files if os.path.splitext(file)[0].endswith(next(iter(endings.values()), ""))]
    chosen = [images[i] for i in evenly_spaced(len(images), _IMAGES).tolist()]
    formats: dict[tuple[tuple[str, ...], str, float | None], dict[str, ChannelValues]] = defaultdict(dict)
    for file in chosen:
        with suppress(DataError):  # reported when the image is opened
            channels = Channels(tuple(endings) or channel_names(file), "", (), files=tuple(endings.values()))
            channels = replace(channels_of_files([file], channels), range=())
            pixels = read_image(file, channels).transpose(2, 0, 1)
            image_format = channels.names, channels.stored or channels.dtype, channels.nodata
            formats[image_format][file] = channel_values(pixels, channels)
    if not formats:
        return None
    texts: list[str] = []
    severity: Severity = "error"
    for image_format, measured in sorted(formats.items(), key=lambda item: len(item[1])):  # the most frequent is last
        names, dtype, nodata = image_format
        values = ChannelValues.stacked(measured.values())
        limits = f"{np.fmin.reduce(values.low, axis=None):g} to {np.fmax.reduce(values.high, axis=None):g}"
        tag = "" if nodata is None else f", {nodata:g} without data by the tag GDAL_NODATA"
        described = f"{counted(len(names), 'channel')} of {dtype}, values {limits}{tag}"
        texts.append(f"{next(iter(measured))}: {described} ({len(measured)} of {len(chosen)} images)")
    with suppress(DataError):
        read_image(next(iter(measured)))
        severity = "warning"
    if severity == "warning" and dtype == "uint8" and not endings:
        return None
    overrides = [f"data.channels={flow(endings or names)}"]
    overrides.append(f"data.range={'[0, 255]' if dtype == 'uint8' else 'percentile'}")
    if not math.isnan(values.likely_nodata):
        overrides.append(f"data.nodata={values.likely_nodata:.9g}")
    fix = f"Set these keys in the config, or add {shlex.join(overrides)} to the command. Below, they are set."
    examples = (*texts[::-1], *(override.replace("=", ": ", 1) for override in overrides))
    return overrides, Finding(severity, "images with other channels than RGB of 8 bits", 1, fix, examples)


def _endings(files: Sequence[str]) -> dict[str, str]:
    """Maps channels to endings of file names, if each channel of the first image has its own file: names that differ
    only in their endings, one of them a colour or band. An ending of all `files` comes first."""
    match = _FILE.fullmatch(files[0]) if files else None
    paths = glob.glob(f"{glob.escape(match[1])}[_.-]*{match[3]}") if match else []
    ends = [other[2] for other in map(_FILE.fullmatch, paths) if other and match and other[1] == match[1]]
    if len(ends) < 2 or not any(map(_CHANNEL_ENDING.fullmatch, ends)):
        return {}
    shared_ends = {end for end in ends if all(os.path.splitext(file)[0].endswith(end) for file in files)}
    return {
        end[1:].lower(): end
        for end in sorted(ends, key=lambda end: (end not in shared_ends, colors_first(end[1:].lower())))
    }
