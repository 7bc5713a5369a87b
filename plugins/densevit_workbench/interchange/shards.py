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
from densevit.data.datasets.data_root import root_folder
from densevit.data.io.file_errors import naming_file
from densevit.data.io.images import read_image
from densevit.data.io.tar_members import TarMember
from densevit.errors import DataError
from densevit.interfaces import Class, Dataset, Sample
from densevit.targets.run_length_masks import RunLengthMasks

INDEX = "index.npz"  # of a split
SHARD = "{:06}.tar"
_WINDOW = 4  # shards that are shuffled together


@dataclass(frozen=True)
class Header:
    """JSON in an index. shards: sizes in bytes. Further fields: see `Dataset`."""

    shards: tuple[int, ...]
    provides: tuple[str, ...]
    classes: dict[str, tuple[Class, ...]]
    channels: Channels
    metric: bool


class Shards(Dataset):
    """The samples of another data set, from tar shards in WebDataset's format with an index.

    root: the folder that `densevit shard` wrote.

    Samples, channels, sizes, classes and labels equal the original data set's. Samples were checked when the shards
    were written; the constructor checks that all shards exist with their sizes, and reading a record detects damage.

    The index locates each record, a contiguous part of a shard. So an epoch contains each record once on any number of
    processes and workers, and a run resumes exactly, unlike with a stream of shards. An epoch shuffles the shards, then
    the records within each 4 successive shards: all processes read from the same few shards at a time, so that disks
    and network file systems read large contiguous parts.
    """

    def __init__(self, split: str, root: str | None = None) -> None:
        base = root_folder(root)
        folder = base / split
        if not (folder / INDEX).is_file():
            splits = sorted(path.parent.name for path in base.glob(f"*/{INDEX}"))
            fix = f"data.split={splits[0]}" if splits else f"densevit shard SRC {base} writes them"
            raise DataError(f"{base} has no shards of a split {split!r}, only {splits}. Fix: {fix}.")
        with naming_file(folder / INDEX, "index"), np.load(folder / INDEX, allow_pickle=False) as arrays:
            self._arrays = dict(arrays)
            header = TypeAdapter(Header).validate_json(self._arrays["header"].tobytes())
        self.provides, self.classes, self.channels = header.provides, header.classes, header.channels
        self.metric = header.metric
        self._paths = [folder / SHARD.format(number) for number in range(len(header.shards))]
        for path, size in zip(self._paths, header.shards, strict=True):
            if not path.is_file() or path.stat().st_size != size:
                raise DataError(
                    f"{path} is missing, cut short or replaced; {size:,} bytes are expected. Fix: copy it again, or "
                    "write the shards again with densevit shard."
                )

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
        """The pairs (P, 2) of the original data set."""
        return self._arrays.get("image_classes")

    def shuffled(self, indices: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Shuffles the shards, then the indices within each 4 successive shards."""
        position = rng.permutation(len(self._paths))  # of each shard
        window = position[self._arrays["records"][indices, 0]] // _WINDOW
        return indices[np.lexsort((rng.random(len(indices)), window))]

    def __getitem__(self, index: int) -> Sample:
        """The sample as it was written."""
        shard, first, length = self._arrays["records"][index, :3].tolist()
        data = TarMember(str(self._paths[shard]), first, length).read()
        return decode(data, f"{self._paths[shard]}, record {index}")


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
