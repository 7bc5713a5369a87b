"""Finds a folder of images and a folder of their label or depth maps, which are not folders of classes."""

import itertools
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from densevit.data.datasets.split_names import spellings
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

    size: tuple[int, int]
    is_grey: bool
    values: int
    is_deep: bool


def paired_folders(folder: Path, names: Iterable[str]) -> PairedFolders | None:
    """The first two folders with files of the same names and sizes, of which one holds maps of the other's images: grey
    or indexed files of colour images, or files of few values. None if there are none.

    Folders of classes may have equal file names and sizes too, so pixels are read, of at most 8 files per folder.
    names: folders in `folder`.
    """
    names = list(names)
    files = {name: _images_of(folder / name) for name in names} if len(names) <= _MOST_FOLDERS else {}
    for images, maps in itertools.permutations(files, 2):
        shared = sorted(files[images].keys() & files[maps].keys())
        if 2 * len(shared) > min(len(files[images]), len(files[maps])):
            chosen = [shared[i] for i in np.linspace(0, len(shared) - 1, min(len(shared), _SAMPLED)).astype(int)]
            pairs = [(_pixels(files[images][stem]), _pixels(files[maps][stem])) for stem in chosen]
            if all(map(_is_pair, *zip(*pairs, strict=True))):
                return PairedFolders(
                    folder / images, folder / maps, all(pixels is not None and pixels.is_deep for _, pixels in pairs)
                )
    return None


def _images_of(folder: Path) -> Mapping[str, str]:
    """The image files in a folder, by name without suffix."""
    return {
        os.path.splitext(entry.name)[0]: entry.path
        for entry in os.scandir(folder)
        if entry.name.lower().endswith(IMAGES) and entry.is_file()
    }


def _is_pair(image: _Pixels | None, label_map: _Pixels | None) -> bool:
    """Whether the second can be a map of the first."""
    if image is None or label_map is None or image.size != label_map.size:
        return False
    return (label_map.is_grey and not image.is_grey) or label_map.values <= _MOST_VALUES < image.values


def _pixels(path: str) -> _Pixels | None:
    """None for a file that cannot be read."""
    try:
        with open_image(path) as image:
            values = np.asarray(image.resize(_GRID, resample=0))  # the nearest pixels
            count = len(np.unique(values.reshape(_GRID[0] * _GRID[1], -1), axis=0))
            return _Pixels(image.size, values.ndim == 2, count, values.ndim == 2 and values.dtype.itemsize > 1)
    except (OSError, ValueError):  # includes DataError
        return None
