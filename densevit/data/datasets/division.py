"""Divides the images of a data set without a val split into train and val, by `data.val_share`."""

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from densevit.channels import RGB, Channels
from densevit.data.datasets.file_checks import for_each
from densevit.data.datasets.scan_cache import Arrays, cached_scan
from densevit.data.duplicate_images import HashedImage, difference_hash, duplicate_groups, pixel_digest
from densevit.data.io.channel_files import as_rgb, channel_paths
from densevit.data.io.images import read_image
from densevit.errors import DataError, warn_once

DEFAULT_SHARE = 0.2
_FEW = 50  # images; the duplicates of fewer are not cached


def check_val_share(val_share: float | None, val_split: str | os.PathLike[str] | None) -> None:
    """Raises DataError for an invalid share, and for a share if there is a val split. val_split: its name or None."""
    if val_share is None:
        return
    if not 0 < val_share < 1:
        raise DataError(f"data.val_share is {val_share:g}; expected a number above 0 and below 1, such as 0.2.")
    if val_split is not None:
        raise DataError(
            f"data.val_share is {val_share:g}, but the data set has a val split: {val_split}. Fix: remove "
            "data.val_share, or the val split."
        )


def part_of(
    split: str, paths: Sequence[str], val_share: float | None, where: str | os.PathLike[str], channels: Channels = RGB
) -> tuple[np.ndarray, str]:
    """Divides a data set without a val split. Returns which images are in `split`, (N,) bool, and a text about it."""
    in_val = validation_part(paths, DEFAULT_SHARE if val_share is None else val_share, where, channels)
    return in_val == (split == "val"), division_text(in_val, val_share, where)


def validation_part(
    paths: Sequence[str], share: float, where: str | os.PathLike[str], channels: Channels = RGB
) -> np.ndarray:
    """Chooses the images for validation, (N,) bool.

    Identical and nearly identical images (see `densevit.data.duplicate_images`) stay in one part. The choice depends
    only on the images' content, not on their order or names. where: the data set, for messages. Raises DataError for
    images that cannot be divided.
    """
    scan = similar_images(paths, channels)
    count = min(max(1, round(share * len(paths))), len(paths) - 1)
    chosen = _choose(scan["digests"], scan["similar"], count)
    if 2 * chosen.sum() < max(count, 1):
        largest = int(np.bincount(scan["similar"]).max())
        chosen = _choose(scan["digests"], scan["identical"], count)
        if not chosen.any():
            raise DataError(
                f"{where} has no val split, and its {len(paths):,} images cannot be divided: "
                f"{'one image' if len(paths) == 1 else 'almost all are identical'}. Fix: add a val split."
            )
        warn_once(
            f"{where}: {largest:,} of {len(paths):,} images are one chain of nearly identical images, such as "
            "frames of a video, and cannot stay in one part: the metrics will be too good. Fix: add a val split of "
            "other scenes."
        )
    return chosen


def similar_images(paths: Sequence[str], channels: Channels = RGB) -> Arrays:
    """Returns `digests`, (N, 16) uint8 of the files, and two group numbers of each image, (N,): `identical`, and
    `similar` for identical or nearly identical images. Cached."""
    key = hashlib.sha256("\0".join([repr(channels), *paths]).encode(errors="surrogateescape")).hexdigest()
    is_large, files = len(paths) >= _FEW, [file for path in paths for file in channel_paths(path, channels)]
    return cached_scan(["division", key], lambda: _scan(paths, channels), lambda _: files, is_large)


def division_text(chosen: np.ndarray, share: float | None, where: str | os.PathLike[str]) -> str:
    """Describes a division in one sentence. chosen: (N,) bool, the validation images. share: None for the default."""
    val = int(chosen.sum())
    default = " by default" if share is None else ""
    return (
        f"{where} has no val split: of its {len(chosen):,} images, {len(chosen) - val:,} are for training and {val:,} "
        f"for validation (data.val_share={DEFAULT_SHARE if share is None else share:g}{default})"
    )


def _choose(digests: np.ndarray, groups: np.ndarray, count: int) -> np.ndarray:
    """Chooses at most `count` images, (N,) bool: complete groups, in the order of their lowest digests.

    If all groups are larger, chooses a smallest group, if it has at most half of the images.
    digests: (N, 16) uint8. groups: (N,) the group of each image.
    """
    order = np.lexsort(digests.T[::-1])
    _, first = np.unique(groups[order], return_index=True)
    sizes = np.bincount(groups)
    chosen = np.zeros(len(sizes), bool)
    ordered = groups[order][np.sort(first)]
    for group in ordered.tolist():
        if sizes[group] <= count:
            chosen[group] = True
            count -= sizes[group]
    smallest = ordered[sizes[ordered].argmin()]
    if not chosen.any() and 2 * sizes[smallest] <= len(groups):
        chosen[smallest] = True
    return chosen[groups]


def _scan(paths: Sequence[str], channels: Channels) -> Arrays:
    """Returns digests of the files, and the groups of identical and of nearly identical images.

    A file that cannot be read forms its own group; the data set's checks report it.
    """
    digests = np.zeros((len(paths), 16), np.uint8)
    images = [HashedImage("", "", b"", None)] * len(paths)

    def read(index: int) -> None:
        path = paths[index]
        try:
            pixels = read_image(path, channels)
            content = b"".join(Path(file).read_bytes() for file in channel_paths(path, channels))
        except (OSError, ValueError):  # includes DataError
            content = os.path.basename(path).encode(errors="surrogateescape")
            images[index] = HashedImage("", path, path.encode(errors="surrogateescape"), None)
        else:
            images[index] = HashedImage("", path, pixel_digest(pixels), difference_hash(as_rgb(pixels, channels)))
        digests[index] = np.frombuffer(hashlib.blake2b(content, digest_size=16).digest(), np.uint8)

    for_each(len(paths), read, "Searching for duplicates")
    identical, similar = duplicate_groups(images)
    return {"digests": digests, "identical": identical, "similar": similar}
