"""Reads the tar shards that `densevit shard` writes: a data set of any size in few large files."""

import os
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np

from densevit.channels import Channels
from densevit.data.datasets.data_root import root_folder
from densevit.data.io.file_errors import check_regular
from densevit.data.io.text_files import read_json
from densevit.data.outside_paths import is_outside
from densevit.errors import DataError, UnreadableFileError, one_line
from densevit.interfaces import Class, Dataset, Sample
from densevit_workbench.interchange.shard_records import INDEX, RECORDS, VERSION, WITH_CHANNELS, decode

_WINDOW = 4  # shards that are shuffled together
_OPEN = 16  # shards that a process keeps open


class Shards(Dataset):
    """The samples of another data set, from tar shards in WebDataset's format with an index.

    root: the folder that `densevit shard` wrote.
    limit: the number of images to use, the first ones.

    Samples, channels, sizes, classes and labels are those of the data set that was written. Its files are checked when
    they are written; here only that all shards exist with their sizes. Damage inside a shard is detected when its
    record is read.

    Each record is a contiguous part of a shard, located by the index: an epoch has each record once on any number of
    processes and workers, and a run resumes exactly, which is not possible with a stream of shards. An epoch shuffles
    the shards, and then the records within each 4 successive shards: all processes read from the same few shards at a
    time, so that disks and network file systems read large contiguous parts.
    """

    def __init__(self, split: str, root: str | None = None, limit: int | None = None) -> None:
        if limit is not None and limit < 1:
            raise DataError(f"data.limit is {limit}; expected at least 1 image.")
        base = root_folder(root)
        self._index = base / INDEX
        described = self._described(split)
        try:
            self.provides = tuple(described["provides"])
            self.metric = bool(described["metric"])
            self.classes = {
                task: tuple(Class(one["name"], one["id"], tuple(one["color"]), one["thing"]) for one in classes)
                for task, classes in described["classes"].items()
            }
            values = described.get("channels", {})
            self.channels = Channels(**{key: _tuples(value) for key, value in values.items()})
            self._unlabelled: str | None = described["unlabelled"]
            names = [str(shard["name"]) for shard in described["shards"]]
            sizes, images = [int(shard["bytes"]) for shard in described["shards"]], int(described["images"])
        except (LookupError, TypeError, AttributeError, ValueError) as error:
            raise DataError(f"{self._index} is damaged: {one_line(error)}. {_FIX}") from None
        for name, size in zip(names, sizes, strict=True):
            if is_outside(name, base):
                raise DataError(f"{self._index} names the shard {name!r}, outside of {base}. {_FIX}")
            _check_shard(base / name, size)
        self._paths = [str(base / name) for name in names]
        records = _records(base / split / RECORDS, images, np.array(sizes, np.int64))
        self._shard, self._first, self._length = (records[key][:limit] for key in ("shard", "first", "length"))
        self._sizes = records["sizes"][:limit].astype(np.int32)
        counts, pairs = records.get("object_counts"), records.get("image_classes")
        self._counts = None if counts is None else counts[:limit]
        self._pairs = None if pairs is None else pairs[pairs[:, 0] < len(self)]
        self._files: OrderedDict[int, int] = OrderedDict()  # file descriptors of open shards

    @classmethod
    def recognise(cls, root: Path) -> dict[str, Any] | None:
        """Recognises a folder with the index of `densevit shard`."""
        return {} if (root / INDEX).is_file() and (root / "train" / RECORDS).is_file() else None

    def __len__(self) -> int:
        return len(self._shard)

    def check_labels(self) -> None:
        """Raises DataError if the data set that was written has no labels."""
        if self._unlabelled is not None:
            raise DataError(f"{self._index}: when the shards were written, {self._unlabelled}")

    def sizes(self) -> np.ndarray:
        """Returns (N, 2) heights and widths."""
        return self._sizes

    def object_counts(self) -> np.ndarray | None:
        """Returns the counts (N,) of the data set that was written."""
        return self._counts

    def image_classes(self) -> np.ndarray | None:
        """Returns the pairs (P, 2) of the data set that was written."""
        return self._pairs

    def shuffled(self, indices: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Returns the indices in random order within each 4 successive shards of a random order of the shards."""
        place = rng.permutation(len(self._paths))  # of each shard
        window = place[self._shard[indices]] // _WINDOW
        return indices[np.lexsort((rng.random(len(indices)), window))]

    def __getitem__(self, index: int) -> Sample:
        """Returns the sample as it was written."""
        shard, first, length = int(self._shard[index]), int(self._first[index]), int(self._length[index])
        name = f"{self._paths[shard]}, record {index}"
        try:
            data = os.pread(self._file(shard), length, first)
        except OSError as error:
            raise UnreadableFileError(f"{name} cannot be read: {error.strerror}.") from None
        if len(data) < length:
            raise UnreadableFileError(f"{name} ends after {len(data)} of {length} bytes. {_FIX}")
        return decode(data, name, self.channels)

    def _file(self, shard: int) -> int:
        """Returns the file descriptor of a shard. Forked workers may share it, as reads use no common position."""
        if shard in self._files:
            self._files.move_to_end(shard)
            return self._files[shard]
        if len(self._files) >= _OPEN:
            os.close(self._files.popitem(last=False)[1])
        self._files[shard] = os.open(self._paths[shard], os.O_RDONLY)
        return self._files[shard]

    def __del__(self) -> None:
        for descriptor in getattr(self, "_files", {}).values():
            os.close(descriptor)

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_files": OrderedDict()}  # descriptors are valid in this process only

    def _described(self, split: str) -> dict[str, Any]:
        """Reads the entry of a split in the index."""
        if not self._index.exists():
            raise DataError(
                f"{self._index} does not exist, so {self._index.parent} holds no shards. Fix: densevit shard SRC "
                f"{self._index.parent} writes them."
            )
        try:
            document = read_json(self._index)
            version, splits = document["version"], document["splits"]
        except (DataError, KeyError, TypeError) as error:
            raise DataError(f"{self._index} is not an index of shards: {one_line(error)}. {_FIX}") from None
        if version not in (VERSION, WITH_CHANNELS):
            raise DataError(f"{self._index} has the version {version!r}; expected {VERSION} or {WITH_CHANNELS}. {_FIX}")
        if split not in splits:
            raise DataError(f"{self._index} has no split {split!r}, only {', '.join(splits)}. Fix: data.split=NAME.")
        found: dict[str, Any] = splits[split]
        return found


_FIX = "Fix: copy it again, or write the shards again with densevit shard."


def _tuples(value: Any) -> Any:
    """Returns lists of JSON as tuples."""
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


def _check_shard(path: Path, size: int) -> None:
    check_regular(path)
    try:
        found = os.path.getsize(path)
    except OSError as error:
        raise DataError(f"{path}: the index names this shard, but: {error.strerror}. {_FIX}") from None
    if found != size:
        state = "is cut short" if found < size else "was replaced"
        raise DataError(f"{path} {state}: it has {found} bytes, the index says {size}. {_FIX}")


def _records(path: Path, images: int, sizes: np.ndarray) -> dict[str, np.ndarray]:
    """Reads the arrays of a split. sizes: the size of each shard in bytes."""
    check_regular(path)
    try:
        with np.load(path, allow_pickle=False) as stored:
            arrays = {name: stored[name] for name in stored.files}
        if not all(len(arrays[key]) == images for key in ("shard", "first", "length", "sizes")):
            raise ValueError(f"it does not have {images} records")
        shard, first, length = (arrays[key] for key in ("shard", "first", "length"))
        outside = (shard < 0) | (shard >= len(sizes)) | (first < 0) | (length < 0)
        if outside.any() or (first > sizes[shard] - length).any():
            raise ValueError("it has records outside of their shards")
    except Exception as error:  # OSError, ValueError, KeyError, BadZipFile, zlib.error and more
        raise DataError(f"{path} cannot be read: {one_line(error)}. {_FIX}") from None
    return arrays
