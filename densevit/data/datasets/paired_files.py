"""Pairs images with label files by name or by a list file."""

import math
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from densevit.channels import RGB, Channels
from densevit.data.datasets.file_checks import OnError
from densevit.data.datasets.image_files import UNREAD, image_suffixes, warn_of_unread
from densevit.data.datasets.list_files import ListedPairs
from densevit.data.datasets.pair_paths import PairPaths, files_by_name, named_paths, path_pattern
from densevit.data.io.channel_files import IMAGES
from densevit.errors import DataError, UnreadableFileError, warn_once

Row = tuple[str, str, str, float]  # name, image, label, focal length or nan


@dataclass(frozen=True)
class PairedFiles:
    """N images with their labels, as arrays, which forked workers share with their parent."""

    names: np.ndarray  # (N,) UTF-8 bytes: the common name of image and label, "aachen/aachen_000000_000019"
    images: np.ndarray  # (N,) UTF-8 bytes, paths relative to the root
    labels: np.ndarray  # (N,)
    focals: np.ndarray  # (N,) focal lengths in a list file, in pixels; nan without
    unlabelled: np.ndarray  # (M,) names of images that the list file marks as unlabelled
    missing: tuple[UnreadableFileError, ...] = ()  # errors of the pairs that were left out because a file is missing
    names_count: int = 0  # number of names, including pairs that were left out

    @classmethod
    def of(cls, rows: Sequence[Row], unlabelled: Iterable[str] = ()) -> "PairedFiles":
        """Builds pairs from rows."""
        *columns, focals = zip(*rows, strict=True)
        names, images, labels, lone = (
            np.array([os.fsencode(t) for t in texts], np.bytes_) for texts in (*columns, unlabelled)
        )
        return cls(names, images, labels, np.array(focals), lone)

    def subset(self, chosen: np.ndarray) -> "PairedFiles":
        """Returns the images for which `chosen`, (N,) bool, is True."""
        columns = {key: getattr(self, key)[chosen] for key in ("names", "images", "labels", "focals")}
        return replace(self, **columns)

    def __len__(self) -> int:
        return len(self.names)


def find_pairs(
    root: Path,
    split: str,
    paths: PairPaths,
    limit: int | None = None,
    outside_paths: bool = False,
    channels: Channels = RGB,
    on_error: OnError = "raise",
) -> PairedFiles:
    """Finds the images of a split with their labels, in the order of their names or of the list file.

    outside_paths: whether paths of the list file may lead out of root and of the folders images and labels. channels:
    the images' channels; if each is in its own file, the first channel's file stands for the image. on_error: "skip"
    leaves out pairs with a missing file.

    Raises DataError for an image without a label and a label without an image, for a line of the list file with a
    missing file or a repeated name, and if there are no files. Files that a list file does not name are not reported.
    """
    paths = paths.for_split(root, split)
    by_name = paths.list_file is None
    listing = FolderPairs(root, paths, channels) if by_name else ListedPairs(root, paths, outside_paths, channels)
    rows: list[Row] = []
    missing: list[UnreadableFileError] = []
    for entry in listing.entries:
        try:
            rows.append(listing.pair(entry))
        except UnreadableFileError as error:
            missing.append(error)
    if missing and (on_error == "raise" or not rows):
        more = f" Of {len(listing.entries):,} names, {len(missing):,} lack a file; densevit doctor counts them by kind."
        raise UnreadableFileError(f"{missing[0]}{more if len(missing) > 1 else ''}", missing[0].rule)
    if not rows:
        raise DataError(f"{root / paths.images} has no image with a label.")
    if missing:
        warn_once(
            f"{root}: {len(missing):,} of {len(listing.entries):,} images or labels lack a file and are left out "
            f"(data.on_error: skip): {missing[0]}"
        )
    return replace(
        PairedFiles.of(rows[:limit], listing.unlabelled), missing=tuple(missing), names_count=len(listing.entries)
    )


class FolderPairs:
    """Pairs images and labels by name."""

    entries: Sequence[Any]  # names
    unlabelled: Sequence[str] = ()

    def __init__(self, root: Path, paths: PairPaths, channels: Channels) -> None:
        image_paths = named_paths(root, paths.images, "images", channels)
        label_paths = named_paths(root, paths.labels, "labels")
        self.images = files_by_name(root, paths.images, image_paths, image_suffixes(channels), "images")
        self.labels = files_by_name(root, paths.labels, label_paths, paths.suffixes, "labels")
        self.paths, self.entries = paths, sorted(self.images.keys() | self.labels.keys())
        unread = [path for name, path in image_paths if name not in self.images and path.lower().endswith(UNREAD)]
        warn_of_unread(root / paths.images, sorted(unread), len(self.images))

    def pair(self, name: str) -> Row:
        """Returns the pair of a name. Raises UnreadableFileError if one of its files is missing."""
        image, label = self.images.get(name), self.labels.get(name)
        if image is not None and label is not None:
            return name, image, label, math.nan
        present, missing, pattern = (
            ("label", "image", self.paths.images) if image is None else ("image", "label", self.paths.labels)
        )
        raise UnreadableFileError(
            f"{image or label} has no {missing}. Expected the {missing} under the {present}'s name, as "
            f"{path_pattern(pattern, name)}, in a format that is read "
            f"({', '.join(IMAGES if missing == 'image' else self.paths.suffixes)}). To use only some of the files, "
            "name these in a list (data.list_file).",
            f"{present}s without {missing}",
        )
