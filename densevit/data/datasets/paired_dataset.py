"""Base class of data sets with one annotation file per image: label maps and depth maps."""

import hashlib
import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

from densevit.channels import Channels
from densevit.data.datasets.dataset_validation import Scan
from densevit.data.datasets.paired_files import Pairs
from densevit.data.datasets.scan_cache import LARGE, Arrays, cached_scan
from densevit.data.io.channel_files import channel_paths
from densevit.data.io.images import channels_of_files, image_header, read_image
from densevit.errors import DataError
from densevit.interfaces import Dataset, Sample

Size = tuple[int, int]  # height, width


class PairedDataset(Dataset):
    """Images with one annotation file each, one value per pixel. A subclass reads these files.

    noun: the annotation file's name in messages. At the start, each image is checked to be complete and of its
    annotation file's size. An image is not rotated by EXIF if only the stored image has the size of its annotation
    file; square images, and those with an orientation of 2 to 4, are rotated. `image_id` is the image's name.
    """

    noun: str

    def open(self, root: Path, split: str, pairs: Pairs, scan: Scan, channels: Channels) -> None:
        """Sets the files of a split and measures them. channels: the config's, whose type may be open. Raises
        DataError for the first invalid file."""
        self._root, self._split, self._pairs = str(root), split, pairs
        self.channels = channels_of_files((self.path(index) for index in range(len(pairs))), channels)
        scan.record_files(self.path(index) for index in range(len(pairs)))
        is_large = len(pairs) >= LARGE
        arrays = cached_scan(scan, self.scan_key(), lambda: self.scan_files(scan), self._files, is_large)
        self._sizes, self._upright = arrays["sizes"], arrays["upright"]
        self._scanned = arrays

    def scan_key(self) -> list[Any]:
        """Returns everything besides the files' content that the result of `scan_files` depends on, as JSON."""
        of_pairs = (self._pairs.images.tobytes(), self._pairs.labels.tobytes())
        return [
            type(self).__name__,
            self._root,
            repr(self.channels),
            *(hashlib.sha256(paths).hexdigest() for paths in of_pairs),
        ]

    def scan_files(self, scan: Scan) -> Arrays:
        """Checks and measures all files."""
        unknown = 1 if scan.examination is None else 0  # which __getitem__ measures
        self._sizes, self._upright = np.full((len(self), 2), unknown, np.int32), np.ones(len(self), bool)
        scan.examine_files(len(self), self._measure, needed=())
        return {"sizes": self._sizes, "upright": self._upright}

    def _files(self, _: Arrays) -> list[str]:
        images = (channel_paths(self.path(index), self.channels) for index in range(len(self)))
        return [path for index, paths in enumerate(images) for path in (*paths, self.label_path(index))]

    def size_of(self, path: str) -> Size:
        """Returns (h, w) of an annotation file, from its header."""
        raise NotImplementedError

    def target(self, index: int) -> np.ndarray:
        """Returns (H, W), the values of an annotation file, for the key in `provides`."""
        raise NotImplementedError

    def __len__(self) -> int:
        return len(self._pairs)

    def sizes(self) -> np.ndarray:
        """Returns (N, 2) heights and widths of the images as `__getitem__` returns them."""
        return self._sizes

    def path(self, index: int) -> str:
        """Returns the path of an image."""
        return os.path.join(self._root, os.fsdecode(self._pairs.images[index]))

    def label_path(self, index: int) -> str:
        """Returns the path of an image's annotation file."""
        return os.path.join(self._root, os.fsdecode(self._pairs.labels[index]))

    def size(self, index: int) -> Size:
        """Returns (h, w) of an image and its annotation file."""
        return int(self._sizes[index, 0]), int(self._sizes[index, 1])

    def __getitem__(self, index: int) -> Sample:
        """Returns the sample with its only target, (H, W)."""
        if not self._sizes[index].all():
            self._measure(index)
        pixels = read_image(self.path(index), self.channels, bool(self._upright[index]))
        self._check_size(index, self.path(index), pixels.shape[:2])
        target = self.target(index)
        self._check_size(index, self.label_path(index), target.shape)
        [key] = self.provides
        name = os.fsdecode(self._pairs.names[index])
        targets = {"image_id": name, key: torch.from_numpy(target)}
        return {"image": torch.from_numpy(pixels).permute(2, 0, 1), "targets": targets}

    def _check_size(self, index: int, path: str, found: tuple[int, ...]) -> None:
        if found != self.size(index):
            raise DataError(f"{path} has changed since the start: {found} pixels, not {self.size(index)}.")

    def _measure(self, index: int) -> None:
        header, size = image_header(self.path(index), self.channels), self.size_of(self.label_path(index))
        if size not in (header.upright_size, header.size):
            (height, width), (h, w) = header.upright_size, size
            raise DataError(
                f"{self.path(index)} has {width} x {height} pixels, but its {self.noun} {self.label_path(index)} has "
                f"{w} x {h}. One of them was resized, or they are not a pair; resize the {self.noun} to the "
                "image's size (nearest pixel)."
            )
        self._sizes[index], self._upright[index] = size, size == header.upright_size


def load_preset(folder: Path, name: str) -> dict[str, Any]:
    """Returns the options in folder/NAME.yaml. Raises DataError for an unknown name."""
    file = folder / f"{name}.yaml"
    if not file.is_file():
        known = ", ".join(sorted(other.stem for other in folder.glob("*.yaml")))
        raise DataError(f"data.preset: there is no {name!r}. Presets: {known}.")
    return yaml.load(file.read_text("utf-8"), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
