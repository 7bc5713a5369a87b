"""Finds a folder of images and a folder of their label or depth maps, which are not folders of classes."""

import itertools
import re
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import numpy as np

from densevit.data.datasets.split_folders import spellings
from densevit.data.io.channel_files import IMAGES
from densevit.data.io.image_opening import open_image

_MOST_FOLDERS = 8  # layouts of images and maps have few folders
_SAMPLED = 8  # files of a folder that are opened
_GRID = (64, 64)  # pixels of a file that are compared
_MOST_VALUES = 64  # of a label map on this grid
_TRAIN = re.compile(rf"(^|/)(?:{'|'.join(sorted(spellings('train'), key=len, reverse=True))})")


class PairedFolders(NamedTuple):
    """A folder of images and the folder of their maps. is_depth: maps of more than 8 bits."""

    images: Path
    maps: Path
    is_depth: bool

    def options(self, root: Path) -> str:
        """The overrides by which a data set with this root reads them."""
        images, maps = (
            _TRAIN.sub(r"\1{split}", path.relative_to(root).as_posix()) for path in (self.images, self.maps)
        )
        return f"data.name={'depth' if self.is_depth else 'label_maps'} data.images='{images}' data.labels='{maps}'"


class _Pixels(NamedTuple):
    """size: (width, height). is_grey: one value per pixel. values: the number of values or colours. is_deep: more than
    8 bits per value."""

    size: tuple[int, int] = (0, 0)
    is_grey: bool = False
    values: int = 0
    is_deep: bool = False


def paired_folders(folder: Path, names: Sequence[str]) -> PairedFolders | None:
    """The first two folders with files of the same names and sizes, of which one holds maps of the other's images: grey
    or indexed files of colour images, or files of few values. None if there are none.

    Folders of classes may have equal file names and sizes too, so pixels are read, of at most 8 files per folder.
    names: folders in `folder`.
    """
    files = {
        name: {path.stem: path for path in (folder / name).iterdir() if path.name.lower().endswith(IMAGES)}
        for name in (names if len(names) <= _MOST_FOLDERS else ())
    }
    for images, maps in itertools.permutations(files, 2):
        shared = sorted(files[images].keys() & files[maps].keys())
        if 2 * len(shared) > min(len(files[images]), len(files[maps])):
            sampled = shared[:: -(-len(shared) // _SAMPLED)]
            pairs = [(_pixels(files[images][stem]), _pixels(files[maps][stem])) for stem in sampled]
            if all(
                image.size == other.size  # the other can be a map of the image
                and ((other.is_grey and not image.is_grey) or other.values <= _MOST_VALUES < image.values)
                for image, other in pairs
            ):
                return PairedFolders(folder / images, folder / maps, all(pixels.is_deep for _, pixels in pairs))
    return None


def _pixels(path: Path) -> _Pixels:
    """Without values for a file that cannot be read."""
    with suppress(OSError, ValueError), open_image(path) as image:  # includes DataError
        values = np.asarray(image.resize(_GRID, resample=0))  # the nearest pixels
        count = len(np.unique(values.reshape(_GRID[0] * _GRID[1], -1), axis=0))
        return _Pixels(image.size, values.ndim == 2, count, values.ndim == 2 and values.dtype.itemsize > 1)
    return _Pixels()
