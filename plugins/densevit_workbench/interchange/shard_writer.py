"""Writes a data set as tar shards with an index; `densevit_workbench.interchange.shards` reads them."""

import io
import json
import tarfile
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
from pydantic import TypeAdapter
from torch import Tensor

from densevit.channels import RGB, Channels
from densevit.data.io.images import read_image
from densevit.data.loading.repeat_factors import SupportsImageClasses
from densevit.data.sample_checks import check_sample
from densevit.errors import DataError
from densevit.interfaces import Dataset, Sample
from densevit.targets.run_length_masks import RunLengthMasks
from densevit.targets.types import TargetTypes
from densevit_workbench.interchange.shards import INDEX, SHARD, ShardHeader


def write_shards(dataset: Dataset, folder: Path, size: int) -> Iterator[int]:
    """Writes a split. Yields the index of each image after it is written.

    folder/000000.tar, ...: the records in the data set's order; a shard ends after `size` bytes.
    folder/index.npz: `header` (`ShardHeader`); `records` (N, 5), for each image its shard, the first byte and the
    length of its record there, its height and its width; `object_counts` and `image_classes` of the data set, if it has
    them.

    The same data set gives the same bytes: times and owners of files are not stored. Raises DataError for target keys
    with a custom type, and for invalid samples.
    """
    types = TargetTypes.of(dataset)
    custom = [key for key in dataset.provides if type(types.get(key)) is not type(TargetTypes().get(key))]
    if custom:
        raise DataError(f"The target {custom[0]!r} has a custom type, which shards cannot store.")
    folder.mkdir(parents=True)
    path_of = getattr(dataset, "path", lambda index: None)
    index, shards, records = 0, list[int](), list[tuple[int, ...]]()
    while index < len(dataset):
        path = folder / SHARD.format(len(shards))
        with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
            while index < len(dataset) and tar.offset < size:
                sample, start = dataset[index], tar.offset
                check_sample(sample, dataset, index, types, dataset.channels)
                write_record(tar, f"{index:09}", sample, path_of(index), dataset.channels)
                records.append((len(shards), start, tar.offset - start, *sample["image"].shape[1:]))
                yield index
                index += 1
        shards.append(path.stat().st_size)
    header = ShardHeader(tuple(shards), tuple(dataset.provides), dataset.classes, dataset.channels, dataset.metric)
    arrays: dict[str, np.ndarray | None] = {
        "header": np.frombuffer(TypeAdapter(ShardHeader).dump_json(header), np.uint8),
        "records": np.array(records, np.int64),
        "object_counts": dataset.object_counts(),
        "image_classes": dataset.image_classes() if isinstance(dataset, SupportsImageClasses) else None,
    }
    available = {key: array for key, array in arrays.items() if array is not None}
    np.savez(folder / INDEX, **available)  # type: ignore[arg-type]


def write_record(
    tar: tarfile.TarFile, name: str, sample: Sample, path: str | Path | None = None, channels: Channels = RGB
) -> None:
    """Appends the files NAME.jpg (or another suffix), NAME.json and NAME.npz of a sample.

    The image is the file `path`, byte for byte, or a PNG if there is no file or the data set changes its pixels. json:
    targets other than arrays, such as `image_id`. npz: arrays, masks as COCO's run-length codes, and the `image`
    (H, W, C) unless it is 8-bit RGB.
    """
    pixels = sample["image"].permute(1, 2, 0).numpy()
    arrays = {
        key: np.array(value.codes(), "S") if isinstance(value, RunLengthMasks) else value.numpy()
        for key, value in sample["targets"].items()
        if isinstance(value, RunLengthMasks | Tensor)
    }
    files: dict[str, bytes] = {}
    if channels.is_rgb:
        suffix, files[suffix] = _image(pixels, path)
    else:
        arrays["image"] = pixels
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)  # type: ignore[arg-type]
    targets = {key: value for key, value in sample["targets"].items() if key not in arrays}
    files |= {"json": json.dumps(targets).encode(), "npz": buffer.getvalue()}
    for suffix, content in files.items():
        member = tarfile.TarInfo(f"{name}.{suffix}")
        member.size = len(content)
        tar.addfile(member, io.BytesIO(content))


def _image(pixels: np.ndarray, path: str | Path | None) -> tuple[str, bytes]:
    """Suffix and content of an image's file. pixels: (H, W, 3), as read by the data set."""
    if path is not None:
        data = Path(path).read_bytes()
        if np.array_equal(read_image(data, name=str(path)), pixels):
            return Path(path).suffix[1:].lower(), data
    return "png", cv2.imencode(".png", cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR))[1].tobytes()
