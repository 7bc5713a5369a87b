"""Base class of data sets of image files, whose sizes are measured once, at the start."""

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from densevit.channels import Channels
from densevit.data.datasets.division import part_of
from densevit.data.datasets.file_checks import OnError, check_each
from densevit.data.datasets.scan_cache import LARGE, Arrays, cached_scan
from densevit.data.datasets.split_folders import limited
from densevit.data.io.channel_files import channel_paths
from densevit.data.io.images import channels_of_files, image_header, read_image
from densevit.errors import DataError
from densevit.interfaces import Dataset, Size

STORED, UPRIGHT = 1, 2  # grids; 0: not measured


class MeasuredImages(Dataset):
    """A data set of image files. A subclass calls `open` with their paths, and `grid` returns the size of their labels.

    `check_files` measures all images; without it, an image is measured when it is read.
    """

    _paths: np.ndarray  # (N,) bytes, relative to `root`; shared with forked workers
    root: str
    file: Path  # the json, if there is one
    missing: Sequence[int] = ()  # indices of images of the json that do not exist

    def open(self, root: str | os.PathLike[str], paths: Sequence[str], channels: Channels) -> None:
        """Sets the images. paths: relative to root. channels: the config's; a missing type is read from the files."""
        self.root, self._paths = str(root), np.array([os.fsencode(path) for path in paths], np.bytes_)
        self._grids = np.zeros((len(paths), 3), np.int32)  # height, width, and STORED or UPRIGHT
        self.channels = channels_of_files((self.path(index) for index in range(len(paths))), channels)

    def choose(
        self,
        folder: Path,
        names: Sequence[str],
        part: str | None,
        val_share: float | None,
        limit: int | None,
        where: Path,
        channels: Channels,
    ) -> np.ndarray:
        """Returns the images to use, (N,) bool: the first `limit` of a part, "train" or "val", of a data set without a
        val split (`part_of`); of all images if `part` is None. names: relative to the folder. where: the data set,
        for messages."""
        chosen = np.ones(len(names), bool)
        if part is not None:
            chosen, self.division = part_of(part, [str(folder / name) for name in names], val_share, where, channels)
        return limited(chosen, limit)

    def grid(self, index: int, stored: Size, upright: Size) -> tuple[Size, bool]:
        """Returns the size of an image's labels, and whether to rotate the image by EXIF. stored, upright: the size of
        the file's pixels, before and after this rotation. Raises DataError if the labels do not fit the file."""
        return upright, True

    def label_grid(
        self, index: int, noun: str, file: str, size: Size, stored: Size, upright: Size
    ) -> tuple[Size, bool]:
        """Returns `grid` of an image whose labels are a map of this size in a file. noun: what messages call the file.
        Raises DataError if the map fits neither the stored nor the upright image."""
        if size not in (upright, stored):
            (height, width), (h, w) = upright, size
            raise DataError(
                f"{self.path(index)} has {width} x {height} pixels, but its {noun} {file} has {w} x {h}. One of them "
                f"was resized, or they are not a pair; resize the {noun} to the image's size (nearest pixel)."
            )
        return size, size == upright

    def other_files(self, index: int) -> list[str]:
        """Returns the other files on which an image's grid depends."""
        return []

    def scan_key(self) -> list[Any]:
        """Returns the cache key of the grids, as JSON values: everything that they depend on besides the files."""
        paths = hashlib.sha256(self._paths.tobytes()).hexdigest()
        return [type(self).__name__, self.root, paths, repr(self.channels)]

    def measure(self, index: int) -> None:
        """Sets an image's grid. Raises UnreadableFileError for an incomplete file, and DataError if the image does not
        fit its labels."""
        header = image_header(self.path(index), self.channels)
        size, is_upright = self.grid(index, header.size, header.upright_size)
        self._grids[index] = *size, UPRIGHT if is_upright else STORED

    def check_file(self, index: int) -> None:
        """Raises as `measure`."""
        self.measure(index)

    def check_files(self, on_error: OnError = "raise") -> None:
        """Measures all images. Raises as `file_checks.check_files`."""
        if self.missing and (on_error == "raise" or len(self.missing) == len(self)):
            paths = sorted(map(self.path, self.missing))
            lines = "".join(f"\n  {path}" for path in paths[:5]) + ("\n  ..." if len(paths) > 5 else "")
            raise DataError(
                f"{self.file} names {len(self)} images, of which {len(paths)} do not exist:{lines}\nCopy them to these "
                "paths, or remove them from the annotations."
            )
        self.measure_all(on_error)

    def measure_all(self, on_error: OnError = "raise") -> None:
        """Sets the grids of all images; caches the grids of a large data set."""

        def scan() -> Arrays:
            check_each(len(self), self.measure, on_error)
            return {"grids": self._grids}

        def files(_: Arrays) -> list[str]:
            images = (channel_paths(self.path(index), self.channels) for index in range(len(self)))
            return [file for i, paths in enumerate(images) for file in (*paths, *self.other_files(i))]

        arrays = cached_scan(
            self.scan_key(), scan, files, len(self) >= LARGE, lambda arrays: bool(arrays["grids"].all())
        )
        self._grids[:] = arrays["grids"]
        self._grids[self._grids[:, 2] == 0] = 1  # unreadable

    def __len__(self) -> int:
        return len(self._paths)

    def sizes(self) -> np.ndarray:
        """Returns (N, 2) heights and widths of the images as `image` returns them."""
        if not self.known_sizes().all():
            self.measure_all()
        return self.known_sizes()

    def known_sizes(self) -> np.ndarray:
        """Returns (N, 2) heights and widths of the images measured so far; 0 for other images."""
        return self._grids[:, :2]

    def path(self, index: int) -> str:
        """Returns the file of an image."""
        return os.path.join(self.root, os.fsdecode(self._paths[index]))

    def image_name(self, index: int) -> str:
        """Returns the path of an image's file relative to `root`."""
        return Path(os.fsdecode(self._paths[index])).as_posix()

    def image_files(self) -> list[str]:
        """Returns the file of each image; if each channel is in its own file, the first channel's file."""
        return [self.path(index) for index in range(len(self))]

    def size(self, index: int) -> Size:
        """Returns (h, w) of an image and its labels."""
        if not self._grids[index, 2]:
            self.measure(index)
        return int(self._grids[index, 0]), int(self._grids[index, 1])

    def image(self, index: int) -> Tensor:
        """Returns an image (C, H, W)."""
        size = self.size(index)
        pixels = read_image(self.path(index), self.channels, bool(self._grids[index, 2] == UPRIGHT))
        if pixels.shape[:2] != size:
            raise DataError(f"{self.path(index)} has changed since the start: {pixels.shape[:2]} pixels, not {size}.")
        return torch.from_numpy(pixels).permute(2, 0, 1)
