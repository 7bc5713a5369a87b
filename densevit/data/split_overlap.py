"""Finds files that the training and the validation split share, at the start of a run."""

import hashlib
import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from densevit.data.data_splits import DataSplits
from densevit.data.datasets.file_checks import for_each
from densevit.data.datasets.scan_cache import LARGE, Arrays, cached_scan
from densevit.errors import DataError


def check_overlap(data: DataSplits) -> None:
    """Raises DataError if a file of the evaluated split is also in `train`, unless `data.allow_overlap` is set.

    Compares inodes, and the bytes of files of equal size. The result for a large data set is cached.
    """
    if data.section.allow_overlap:
        return
    train, val, split = data.train.image_files(), data.val.image_files(), data.section.val_split
    files = [*train, *val]
    key = ["overlap", len(train), hashlib.sha256("\0".join(files).encode(errors="surrogateescape")).hexdigest()]
    scan = cached_scan(key, lambda: _scan(files, len(train)), lambda _: files, len(files) >= LARGE)
    if len(scan["shared"]):
        first, second = scan["shared"][0].tolist()
        raise DataError(
            f"data: {len(scan['shared']):,} of the {len(val):,} images of the split {split!r} are also in 'train': "
            f"{files[second]} is {files[first]}, or has the same bytes. Expected splits without common images, as the "
            "metrics of training images are too good. Fix: name other files for one split, or none for val, so that "
            "data.val_share divides the images; data.allow_overlap=true allows common images."
        )


def _scan(files: Sequence[str], train_count: int) -> Arrays:
    """Returns `shared`, (S, 2): for each file of the evaluated split that is in train, the indices of both files.

    files: those of train, and from `train_count` on those of the evaluated split.
    """
    stats: list[os.stat_result | None] = [None] * len(files)

    def look(index: int) -> None:
        with suppress(OSError):  # the data set's checks report missing files
            stats[index] = os.stat(files[index])

    for_each(len(files), look, "Comparing the splits")
    inodes = [stat and (stat.st_dev, stat.st_ino or i, stat.st_size, stat.st_mtime_ns) for i, stat in enumerate(stats)]
    shared = _pairs(inodes, train_count)
    if not shared:
        sizes = [stat and stat.st_size for stat in stats]
        common = {*sizes[:train_count]} & {*sizes[train_count:]} - {None}
        rows, digests = [i for i, size in enumerate(sizes) if size in common], [b""] * len(files)

        def read(position: int) -> None:
            digests[rows[position]] = hashlib.blake2b(Path(files[rows[position]]).read_bytes()).digest()

        for_each(len(rows), read, "Comparing the splits")
        shared = _pairs(digests, train_count)
    return {"shared": np.array(shared, np.int64).reshape(-1, 2)}


def _pairs(keys: Sequence[Any], train_count: int) -> list[tuple[int, int]]:
    """Returns the first file of train, and each file of the evaluated split, with the same key."""
    first = {key: index for index, key in reversed([*enumerate(keys[:train_count])])}
    return [(first[key], index) for index, key in enumerate(keys) if index >= train_count and key and key in first]
