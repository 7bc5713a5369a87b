"""Finds the image of a label file by its path in the data set, or by a unique name."""

import os
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path, PurePath

from densevit.data.io.file_lookup import find_file, name_forms
from densevit.errors import DataError
from densevit_workbench.interchange.annotated import SPLIT_FOLDERS, is_unread

_IMAGE_FOLDERS = ("jpegimages", "pngimages", "images", "image", "imgs", "img")
SPLIT_NAMES = {name for names in SPLIT_FOLDERS.values() for name in names}


class ImageLookup:
    """The images of a data set. root: the data set's folder. images: image files below it, in unread formats too."""

    def __init__(self, root: Path, images: Iterable[Path]) -> None:
        self.root = root
        self._images: set[str] = set()
        self._by_path: dict[str, list[Path]] = defaultdict(list)  # relative path without suffix
        self._by_stem: dict[str, list[Path]] = defaultdict(list)
        self._folders: set[str] = set()  # names of folders for images
        for image in sorted(images, key=is_unread):
            below = image.relative_to(root)
            path = key(below.with_suffix(""))
            if is_unread(image) and (path in self._by_path or key(below.stem) in self._by_stem):
                continue  # the original of a converted image
            self._images.add(os.path.normpath(image))
            self._by_path[path].append(image)
            self._by_stem[key(below.stem)].append(image)
            self._folders |= {part for part in below.parts[:-1] if part.lower() in _IMAGE_FOLDERS}

    def beside(self, file: Path, filename: str = "") -> Path | None:
        """The image next to a label file with the same stem. filename: decides between several."""
        path = key(file.relative_to(self.root).with_suffix(""))
        return _single(file, self._by_path.get(path, ()), filename)

    def in_layout(self, file: Path, filename: str = "", folder: str = "", stem: str = "") -> Path | None:
        """The image with the stem of a label file in a parallel image folder: JPEGImages for Annotations, images/SPLIT
        for Annotations/SPLIT.

        filename, folder: decide between several. stem: a stem to use instead of the label file's.
        """
        below = file.relative_to(self.root)
        for places in self._layouts(below.parts[:-1]):
            keys = dict.fromkeys(key(PurePath(*parts, stem or below.stem)) for parts in places)
            images = [image for key in keys for image in self._by_path.get(key, ())]
            if images:
                return _single(file, images, filename, folder)
        return None

    def _layouts(self, folders: Sequence[str]) -> Iterator[list[list[str]]]:
        """Yields candidate image folders for a label folder, in order of preference: an image folder in place of one of
        its parts, in addition to its parts, and one part less."""
        names = sorted(self._folders)
        replaceable = [i for i, part in enumerate(folders) if part.lower() not in SPLIT_NAMES]
        yield [[*folders[:i], name, *folders[i + 1 :]] for i in reversed(replaceable) for name in names]
        yield [[*folders[:i], name, *folders[i:]] for i in range(len(folders) + 1) for name in names]
        yield [[*folders[:i], *folders[i + 1 :]] for i in reversed(replaceable)]

    def named(self, file: Path, filename: str, folder: str = "") -> Path | None:
        """The image that a label file names, relative to the label file or in an image folder.

        filename: may contain folders of another machine; then its last part is tried too.
        """
        bases = [file.parent, *((file.parent / folder, file.parent.parent / folder) if folder else ())]
        for name in dict.fromkeys((filename, _last(filename))):
            for base in bases if name else ():
                name_on_disk = find_file(base, name, outside_paths=True)
                path = os.path.normpath(base / name_on_disk) if name_on_disk else ""
                if path in self._images:
                    return Path(path)
        stem = PurePath(_last(filename)).stem
        return self.in_layout(file, filename, folder, stem) if stem else None

    def unique(self, file: Path, *filenames: str) -> Path | None:
        """The only image of the data set with the stem of the first of these names that any image has.

        file: the label file, for messages. Raises DataError for several candidates.
        """
        for name in (form for filename in filenames for form in name_forms(_last(filename))):
            if images := self._by_stem.get(key(PurePath(name).stem)):
                return _single(file, images, "")
        return None


def _single(file: Path, images: Sequence[Path], filename: str, folder: str = "") -> Path | None:
    """The only image; of several, the one with this file name, or in a folder of this name."""
    names = {key(name) for name in name_forms(_last(filename))}
    for matches in (
        images,
        [image for image in images if key(image.name) in names],
        [image for image in images if key(image.parent.name) == key(folder)],
    ):
        if len(matches) == 1:
            return matches[0]
    if not images:
        return None
    raise DataError(
        f"{file}: {images[0]} and {images[1]} may both be its image. Fix: keep one of them, or put the image beside "
        "its label file, with the same name."
    )


def _last(filename: str) -> str:
    """The last part of a file name, in which other machines wrote their folders."""
    return filename.replace("\\", "/").rpartition("/")[2]


def key(path: PurePath | str) -> str:
    """A path as text in Unicode form NFC, as accents have several forms."""
    return unicodedata.normalize("NFC", str(path))
