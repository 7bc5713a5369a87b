"""Reads a TIFF by rows, for images that do not fit into memory: decodes only the strips or tiles that overlap them."""

import math
import os
from contextlib import AbstractContextManager, ExitStack
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from densevit.channels import Channels
from densevit.data.io.channel_files import StoredPixels, joined
from densevit.data.io.file_errors import naming_file
from densevit.data.io.tiff_channels import displayed_values, nodata_of, opened_tiff
from densevit.errors import DataError

LARGE = 100_000_000
"""Number of pixels from which an image is read by rows, if possible."""
SUFFIXES = (".tif", ".tiff")
_ROWS = 512  # rows per step when an image is decimated
_RGB: list[Any] = [(colours, alpha) for colours in ("RGB", "YCBCR") for alpha in ((), (2,))]  # alpha is dropped


class LargeTiff(AbstractContextManager["LargeTiff"]):
    """An open TIFF as a tensor (C, H, W) that can be sliced to windows, from top to bottom. Values as in `read_image`.

    Keeps the rows of the last window and the decoded segments (strips or tiles) that overlap them. A segment with more
    rows than a window needs more memory; an uncompressed image in one piece is memory-mapped.

    device: the device of `new_zeros`, for batches of windows; windows are on the CPU.

    Raises UnreadableFileError for a damaged file, and for a file that cannot be read by rows: with an orientation,
    without the axes height and width, or, for 8-bit RGB, with other colours.
    """

    def __init__(self, path: str | os.PathLike[str], channels: Channels, device: torch.device) -> None:
        self.path, self.channels, self.device = path, channels, device
        self._decoded: dict[tuple[int, int], np.ndarray] = {}  # by page and segment
        self._span, self._kept = (0, 0), np.empty(0)
        with naming_file(path, "image"), ExitStack() as stack:
            self._file = stack.enter_context(opened_tiff(path))
            self._series: Any = self._file.series[0]
            self._page = cast(Any, self._series.keyframe)
            sizes = dict(zip(self._series.axes, self._series.shape, strict=True))
            height, width = sizes.pop("Y", 0), sizes.pop("X", 0)
            samples = self._page.samplesperpixel * len(self._series)
            if (
                not height * width
                or (self._series.dataoffset is None and math.prod(sizes.values()) != samples)
                or self._page.tags.valueof("Orientation", 1) != 1
                or (channels.is_rgb and (self._page.photometric.name, self._page.extrasamples) not in _RGB)
            ):
                raise DataError("it is not read by rows.")
            self.shape = (len(channels.names), height, width)
            self.rows(0, 1)  # raises for another type or number of channels
            stack.pop_all()

    def __exit__(self, *error: object) -> None:
        self._file.close()

    def __getitem__(self, index: tuple[slice, slice, slice]) -> Tensor:
        """image[:, top:bottom, left:right] as (C, h, w)."""
        channels, rows, columns = index
        span = (rows.start, min(rows.stop, self.shape[1]))
        if span != self._span:
            self._span, self._kept = span, self.rows(*span)
        return torch.from_numpy(self._kept[:, columns]).permute(2, 0, 1)[channels]

    def new_zeros(self, *size: int) -> Tensor:
        return torch.zeros(size, dtype=getattr(torch, str(self._kept.dtype)), device=self.device)

    def rows(self, top: int, bottom: int) -> np.ndarray:
        """Reads rows `top` up to, not including, `bottom`: (h, W, C) in the type of the channels."""
        with naming_file(self.path, "image"):
            pixels = self._mapped(top, bottom) if self._series.dataoffset is not None else self._decode(top, bottom)
            values = pixels[..., :3] if self.channels.is_rgb else displayed_values(pixels, self._page)
            return joined([StoredPixels(values, nodata=nodata_of(self._page))], self.channels)

    def decimated(self, step: int) -> np.ndarray:
        """Reads the pixels whose row and column are multiples of `step`: (ceil(H / step), ceil(W / step), C)."""
        spans = ((top, min(top + _ROWS, self.shape[1])) for top in range(0, self.shape[1], _ROWS))
        return np.concatenate([self.rows(*span)[-span[0] % step :: step, ::step].copy() for span in spans])

    def _mapped(self, top: int, bottom: int) -> np.ndarray:
        """Reads rows (h, W, c) of an uncompressed image in one piece. The mapping ends here, which frees its memory."""
        series = self._series
        dtype = series.dtype.newbyteorder(self._file.byteorder)
        pixels = np.memmap(self.path, dtype, "r", series.dataoffset, series.shape)
        axes = series.axes.index("Y"), series.axes.index("X")
        rows = np.moveaxis(pixels, axes, (0, 1))[top:bottom].astype(series.dtype)
        return rows.reshape(*rows.shape[:2], -1)

    def _decode(self, top: int, bottom: int) -> np.ndarray:
        """Decodes rows (h, W, c) from segments; each page has the same number of channels."""
        page, file = self._page, self._file.filehandle
        rows = np.zeros((bottom - top, self.shape[2], self._page.samplesperpixel * len(self._series)), page.dtype)
        before, self._decoded = self._decoded, {}
        for number, page_image in enumerate(self._series):
            for index, (offset, size) in enumerate(zip(page_image.dataoffsets, page_image.databytecounts, strict=True)):
                _, (sample, _, y, x, _), (_, height, width, count) = page.decode(None, index)
                if not (y < bottom and y + height > top):
                    continue
                if (number, index) in before:
                    pixels = before[number, index]
                elif size:
                    file.seek(offset)
                    pixels = page.decode(file.read(size), index, jpegtables=page_image.jpegtables)[0][0]
                else:  # a sparse file stores no segment where there is no data
                    pixels = np.full((height, width, count), page.nodata, page.dtype)
                self._decoded[number, index] = pixels
                first, last = max(y, top), min(y + len(pixels), bottom)
                channel = number * page.samplesperpixel + sample
                part = rows[first - top : last - top, x : x + width, channel : channel + count]
                part[:] = pixels[first - y : last - y, : part.shape[1]]
        return rows
