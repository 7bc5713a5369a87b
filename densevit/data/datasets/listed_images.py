"""What data sets of images without label files share: the paths, and the sizes that are measured at the start."""

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from densevit.channels import Channels
from densevit.data.datasets.dataset_validation import Scan
from densevit.data.io.images import channels_of_files, image_header, read_image
from densevit.interfaces import Dataset


class ListedImages(Dataset):
    """A data set whose images are paths relative to a folder, `_root`."""

    _root: Path

    def _list(self, paths: Sequence[str], scan: Scan, channels: Channels) -> None:
        """Sets the images and checks that all are complete. channels: the config's, whose type may be open."""
        scan.record_files(str(self._root / path) for path in paths)
        self._paths = np.array([os.fsencode(path) for path in paths], np.bytes_)  # shared with forked workers
        self.channels = channels_of_files((self.path(index) for index in range(len(paths))), channels)
        self._sizes = np.full((len(paths), 2), 1 if scan.examination is None else 0, np.int32)
        scan.examine_files(len(paths), self._measure, needed=())

    def __len__(self) -> int:
        return len(self._paths)

    def sizes(self) -> np.ndarray:
        """Returns (N, 2) heights and widths of the images."""
        return self._sizes

    def path(self, index: int) -> str:
        """Returns the path of an image."""
        return str(self._root / self._path(index))

    def _image(self, index: int) -> Tensor:
        """Returns the image (C, H, W)."""
        return torch.from_numpy(read_image(self.path(index), self.channels)).permute(2, 0, 1)

    def _path(self, index: int) -> str:
        return os.fsdecode(self._paths[index])

    def _measure(self, index: int) -> None:
        self._sizes[index] = image_header(self.path(index), self.channels).upright_size
