"""Reads the tar shards that `densevit shard` writes: a data set of any size in few large files."""

import io
import json
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import TypeAdapter

from densevit.channels import Channels
from densevit.data.datasets.division import is_divided, part_of
from densevit.data.datasets.split_folders import root_folder
from densevit.data.io.file_errors import naming_file
from densevit.data.io.images import read_image
from densevit.data.io.tar_members import TarMember
from densevit.errors import DataError, check_format
from densevit.interfaces import Class, Dataset, Sample
from densevit.targets.run_length_masks import RunLengthMasks

FORMAT = 1  # `format_version` of an index
INDEX = "index.npz"  # of a split
SHARD = "{:06}.tar"
_WINDOW = 4  # shards that are shuffled together


@dataclass(frozen=True)
class ShardHeader:
    """JSON in an index. shards: sizes in bytes. Further fields: see `Dataset`."""

    shards: tuple[int, ...]
    provides: tuple[str, ...]
    classes: dict[str, tuple[Class, ...]]
    channels: Channels
    metric: bool
    format_version: int = FORMAT


class Shards(Dataset):
    """The samples of another data set, from tar shards in WebDataset's format with an index.

    root: the folder that `densevit shard` wrote.
    val_share: the share of the validation images of a folder with shards of `train` only, by default 0.2 (see
        `densevit.data.datasets.division`).

    Samples, channels, sizes, classes and labels equal the original data set's. Samples were checked when the shards
    were written; the constructor checks that all shards exist with their sizes, and reading a record detects damage.

    The index locates each record, a contiguous part of a shard. So an epoch contains each record once on any number of
    processes and workers, and a run resumes exactly, unlike with a stream of shards. An epoch shuffles the shards, then
    the records within each 4 successive shards: all processes read from the same few shards at a time, so that disks
    and network file systems read large contiguous parts.
    """

    def __init__(self, split: str, root: str | None = None, val_share: float | None = None) -> None:
        base = root_folder(root)
        has_parts = is_divided(split, val_share, base / "val" if (base / "val" / INDEX).is_file() else None)
        folder = base / ("train" if has_parts else split)
        if not (folder / INDEX).is_file():
            splits = sorted(path.parent.name for path in base.glob(f"*/{INDEX}"))
            fix = f"data.val_split={splits[0]}" if splits else f"densevit shard SRC {base} writes them"
            raise DataError(f"{base} has no shards of a split {split!r}, only {splits}. Fix: {fix}.")
        with naming_file(folder / INDEX, "index"), np.load(folder / INDEX, allow_pickle=False) as arrays:
            self._arrays = dict(arrays)
            text = self._arrays["header"].tobytes()
            version = json.loads(text).get("format_version")
        check_format(version, FORMAT, folder / INDEX, DataError)
        with naming_file(folder / INDEX, "index"):
            header = TypeAdapter(ShardHeader).validate_json(text)
        self.provides, self.classes, self.channels = header.provides, header.classes, header.channels
        self.metric = header.metric
        self._paths = [folder / SHARD.format(number) for number in range(len(header.shards))]
        for path, size in zip(self._paths, header.shards, strict=True):
            if not path.is_file() or path.stat().st_size != size:
                raise DataError(
                    f"{path} is missing, cut short or replaced; {size:,} bytes are expected. Fix: copy it again, or "
                    "write the shards again with densevit shard."
                )
        if has_parts:
            files = [str(self._paths[shard]) for shard in self._arrays["records"][:, 0]]
            chosen, self.division = part_of(split, files, val_share, base, self.channels, self._pixels)
            self._arrays = {key: _part(key, array, chosen) for key, array in self._arrays.items()}

    @classmethod
    def recognise(cls, root: Path) -> dict[str, Any] | None:
        """Returns {} if the folder has the index that `densevit shard` writes, else None."""
        return {} if (root / "train" / INDEX).is_file() else None

    def __len__(self) -> int:
        return len(self._arrays["records"])

    def sizes(self) -> np.ndarray:
        """The heights and widths (N, 2) of the images, in pixels."""
        return self._arrays["records"][:, 3:]

    def object_counts(self) -> np.ndarray | None:
        """The counts (N,) of the original data set."""
        return self._arrays.get("object_counts")

    def image_classes(self) -> np.ndarray | None:
        """Pairs of an image's index and a class in it, (P, 2), of the data set from which the shards were written."""
        return self._arrays.get("image_classes")

    def shuffled(self, indices: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Shuffles the shards, then the indices within each 4 successive shards."""
        position = rng.permutation(len(self._paths))  # of each shard
        window = position[self._arrays["records"][indices, 0]] // _WINDOW
        return indices[np.lexsort((rng.random(len(indices)), window))]

    def image_files(self) -> list[str]:
        """The shards, unless they hold the images of both splits."""
        return [] if self.division else [str(path) for path in self._paths]

    def _pixels(self, index: int) -> tuple[np.ndarray, bytes]:
        """The pixels (H, W, C) of an image, and their bytes."""
        pixels = self[index]["image"].permute(1, 2, 0).numpy()
        return pixels, pixels.tobytes()

    def __getitem__(self, index: int) -> Sample:
        """The sample as it was written."""
        shard, first, length = self._arrays["records"][index, :3].tolist()
        data = TarMember(str(self._paths[shard]), first, length).read()
        return decode(data, f"{self._paths[shard]}, record {index}")


def _part(key: str, array: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    """Returns the rows of an array of the index that belong to the chosen images, (N,) bool."""
    if key == "header":
        return array
    if key != "image_classes":
        return array[chosen]
    pairs = array[chosen[array[:, 0]]]  # (P, 2), image and class
    return np.stack([(np.cumsum(chosen) - 1)[pairs[:, 0]], pairs[:, 1]], axis=1)


def decode(data: bytes, name: str) -> Sample:
    """Decodes a record of `shard_writer.write_record`.

    data: the record's bytes. name: shard and record, for messages. Raises UnreadableFileError for a damaged record.
    """
    with naming_file(name, "record", len(data)), tarfile.open(fileobj=io.BytesIO(data), mode="r:") as tar:
        files = {member.name.partition(".")[2]: tar.extractfile(member).read() for member in tar}  # type: ignore[union-attr]
        targets = json.loads(files.pop("json"))
        with np.load(io.BytesIO(files.pop("npz")), allow_pickle=False) as stored:
            arrays = dict(stored)
        for file in files.values():  # the image, unless it is one of the arrays
            arrays["image"] = read_image(file)
        image = arrays.pop("image")
        for key, array in arrays.items():
            is_masks, size = array.dtype.kind == "S", (image.shape[0], image.shape[1])
            targets[key] = RunLengthMasks.from_codes(array.tolist(), size) if is_masks else torch.from_numpy(array)
    return {"image": torch.from_numpy(image).permute(2, 0, 1), "targets": targets}
