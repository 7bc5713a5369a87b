"""Divides the images of a data set without a val split into train and val, by `data.val_share`."""

import hashlib
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from densevit.channels import RGB, Channels
from densevit.data.datasets.file_checks import for_each
from densevit.data.datasets.scan_cache import Arrays, cached_scan
from densevit.data.datasets.split_folders import DIVIDED
from densevit.data.duplicate_images import HashedImage, difference_hash, duplicate_groups, pixel_digest
from densevit.data.io.channel_files import as_rgb, channel_paths
from densevit.data.io.images import read_image
from densevit.errors import DataError, warn_once

DEFAULT_SHARE = 0.2
_FEW = 50  # images; the duplicates of fewer are not cached
_LARGEST = 0.5  # the largest share of the validation images, unless `val_share` is larger

Load = Callable[[int], tuple[np.ndarray, bytes]]
"""Returns the pixels (H, W, C) of an image, and the bytes that identify it. Raises OSError or ValueError."""


def is_divided(split: str, val_share: float | None, val_split: str | os.PathLike[str] | None) -> bool:
    """Whether a split is a part of the images of `train`, because the data set has no val split.

    val_split: the name of the val split; None if there is none. Raises DataError for an invalid share, and for a share
    if there is a val split.
    """
    if val_share is not None and not 0 < val_share < 1:
        raise DataError(f"data.val_share is {val_share:g}; expected a number above 0 and below 1, such as 0.2.")
    if val_share is not None and val_split is not None:
        raise DataError(
            f"data.val_share is {val_share:g}, but the data set has a val split: {val_split}. Fix: remove "
            "data.val_share, or the val split."
        )
    return val_split is None and split in DIVIDED


def part_of(
    split: str,
    paths: Sequence[str],
    val_share: float | None,
    where: str | os.PathLike[str],
    channels: Channels = RGB,
    load: Load | None = None,
) -> tuple[np.ndarray, str]:
    """Divides a data set without a val split. Returns which images are in `split`, (N,) bool, and a sentence about it.

    val_share: None for the default. where: the data set, for messages. load: reads an image of a file with several.
    """
    share, default = (DEFAULT_SHARE, " by default") if val_share is None else (val_share, "")
    in_val = validation_part(paths, share, where, channels, load)
    count, val = len(paths), int(in_val.sum())
    return in_val == (split == "val"), (
        f"{where} has no val split: of its {count:,} images, {count - val:,} are for training and {val:,} for "
        f"validation (data.val_share={share:g}{default}, by image content)"
    )


def validation_part(
    paths: Sequence[str],
    share: float,
    where: str | os.PathLike[str],
    channels: Channels = RGB,
    load: Load | None = None,
) -> np.ndarray:
    """Chooses the images for validation, (N,) bool.

    Identical and nearly identical images (see `densevit.data.duplicate_images`) form a group, which stays in one part.
    A hash of its content assigns a group: neither the order and names of images nor the number of images change its
    part. The part of validation images is thus near `share`, and has at least one image. where: the data set, for
    messages. Raises DataError for images that cannot be divided.
    """
    scan, room = similar_images(paths, channels, load), int(max(share, _LARGEST) * len(paths))
    groups, sizes = scan["similar"], np.bincount(scan["similar"])
    if 2 * sizes[sizes <= room].sum() < share * len(paths):
        groups = scan["identical"]
        if len(paths) < 2 or np.bincount(groups).min() > room:
            raise DataError(
                f"{where} has no val split, and its {len(paths):,} images cannot be divided: "
                f"{'one image' if len(paths) == 1 else 'almost all are identical'}. Fix: add a val split."
            )
        warn_once(
            f"{where}: {sizes.max():,} of {len(paths):,} images are one chain of nearly identical images, such as "
            "frames of a video, and cannot stay in one part: the metrics will be too good. Fix: add a val split of "
            "other scenes."
        )
    return _choose(scan["digests"], groups, share, room)


def similar_images(paths: Sequence[str], channels: Channels = RGB, load: Load | None = None) -> Arrays:
    """Returns `digests`, (N, 16) uint8 of the images' content, and two group numbers of each image, (N,): `identical`,
    and `similar` for identical or nearly identical images. Cached.

    load: reads an image of a file in `paths` with several images; None: each file is an image.
    """
    key = hashlib.sha256("\0".join([repr(channels), *paths]).encode(errors="surrogateescape")).hexdigest()
    files = paths if load else [file for path in paths for file in channel_paths(path, channels)]
    return cached_scan(["division", key], lambda: _scan(paths, channels, load), lambda _: files, len(paths) >= _FEW)


def _choose(digests: np.ndarray, groups: np.ndarray, share: float, room: int) -> np.ndarray:
    """Chooses at most `room` images, (N,) bool: the groups whose hash is below `share`, and at least one group.

    digests: (N, 16) uint8. groups: (N,) the group of each image. The hash of a group is the second half of its lowest
    digest, which does not depend on its number of images.
    """
    order = np.lexsort(digests.T[::-1])
    _, first = np.unique(groups[order], return_index=True)
    lowest = order[first]  # the image with the lowest digest in each group
    hashes = np.ascontiguousarray(digests[lowest, 8:]).view(">u8")[:, 0] / 2**64
    sizes, chosen = np.bincount(groups), np.zeros(len(first), bool)
    for group in np.argsort(hashes):
        if sizes[group] <= room and (hashes[group] < share or not chosen.any()):
            chosen[group] = True
            room -= sizes[group]
    return chosen[groups]


def _scan(paths: Sequence[str], channels: Channels, load: Load | None) -> Arrays:
    """Returns digests of the images' content, and the groups of identical and of nearly identical images.

    A file that cannot be read forms its own group; the data set's checks report it.
    """
    digests = np.zeros((len(paths), 16), np.uint8)
    images = [HashedImage("", "", b"", None)] * len(paths)

    def read(index: int) -> None:
        path = paths[index]
        try:
            if load is None:
                pixels = read_image(path, channels)
                content = b"".join(Path(file).read_bytes() for file in channel_paths(path, channels))
            else:
                pixels, content = load(index)
        except (OSError, ValueError):  # includes DataError
            content = os.path.basename(path).encode(errors="surrogateescape")
            images[index] = HashedImage("", path, path.encode(errors="surrogateescape"), None)
        else:
            images[index] = HashedImage("", path, pixel_digest(pixels), difference_hash(as_rgb(pixels, channels)))
        digests[index] = np.frombuffer(hashlib.blake2b(content, digest_size=16).digest(), np.uint8)

    for_each(len(paths), read, "Searching for duplicates")
    identical, similar = duplicate_groups(images)
    return {"digests": digests, "identical": identical, "similar": similar}
