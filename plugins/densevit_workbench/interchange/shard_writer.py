"""Writes a data set as tar shards with an index; `densevit_workbench.interchange.shards` reads them."""

import json
import tarfile
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from densevit.data.loading.repeat_factors import SupportsImageClasses
from densevit.data.sample_checks import check_sample
from densevit.errors import DataError
from densevit.interfaces import Dataset
from densevit.targets.types import TargetTypes
from densevit_workbench.interchange.shard_records import INDEX, RECORDS, VERSION, WITH_CHANNELS, encode, write


def write_shards(dataset: Dataset, folder: Path, split: str, size: int) -> Iterator[int]:
    """Writes one split. Yields the index of each image after it is written.

    folder/SPLIT/000000.tar, ...: the records in the data set's order; a shard ends after `size` bytes.
    folder/SPLIT/records.npz: for each record its shard, its first byte and its length in it, and its image's size; and
    the data set's `object_counts` and `image_classes`, if it has them.
    folder/index.json: for each split its shards with their numbers of records and bytes, the classes, the keys that are
    labelled, and channels other than RGB of 8 bits. Splits written earlier are kept.

    Raises DataError for target keys whose type is not the registered one of that name, and for invalid samples.
    """
    types = TargetTypes.of(dataset)
    own = [key for key in dataset.provides if type(types.get(key)) is not type(TargetTypes().get(key))]
    if own:
        raise DataError(f"The target {own[0]!r} has a custom type, which shards cannot store.")
    place = folder / split
    place.mkdir(parents=True)
    shards: list[dict[str, Any]] = []
    rows: list[tuple[int, int, int, int, int]] = []
    index = 0
    while index < len(dataset):
        name = f"{len(shards):06}.tar"
        begin = index
        with open(place / name, "wb") as file, tarfile.open(fileobj=file, mode="w", format=tarfile.USTAR_FORMAT) as tar:
            while index < len(dataset) and (index == begin or file.tell() < size):
                sample, start = dataset[index], file.tell()
                check_sample(sample, dataset, index, types, dataset.channels)
                write(tar, f"{index:09}", encode(sample, _path(dataset, index), dataset.channels))
                height, width = sample["image"].shape[1:]
                rows.append((len(shards), start, file.tell() - start, height, width))
                yield index
                index += 1
        shards.append({"name": f"{split}/{name}", "records": index - begin, "bytes": (place / name).stat().st_size})
    columns = np.array(rows, np.int64)
    arrays = {"shard": columns[:, 0], "first": columns[:, 1], "length": columns[:, 2], "sizes": columns[:, 3:]}
    pairs = dataset.image_classes() if isinstance(dataset, SupportsImageClasses) else None
    known = {"object_counts": dataset.object_counts(), "image_classes": pairs}
    arrays |= {key: value for key, value in known.items() if value is not None}
    np.savez(place / RECORDS, **arrays)  # type: ignore[arg-type]
    described = {
        "images": len(dataset),
        "provides": list(dataset.provides),
        "metric": dataset.metric,
        "unlabelled": _unlabelled(dataset),
        "classes": {
            task: [{"name": c.name, "id": c.file_id, "color": c.color, "thing": c.thing} for c in classes]
            for task, classes in dataset.classes.items()
        },
        "shards": shards,
    }
    if not dataset.channels.is_rgb:
        described["channels"] = asdict(dataset.channels)
    file_of_index = folder / INDEX
    splits = json.loads(file_of_index.read_text())["splits"] if file_of_index.exists() else {}
    splits |= {split: described}
    version = WITH_CHANNELS if any("channels" in one for one in splits.values()) else VERSION
    document = {"version": version, "splits": splits}
    file_of_index.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


def _path(dataset: Dataset, index: int) -> str | None:
    """Returns the file of an image, if the data set has a method `path`."""
    path = getattr(dataset, "path", None)
    return None if path is None else str(path(index))


def _unlabelled(dataset: Dataset) -> str | None:
    """Returns the error of the data set's `check_labels`; None without one."""
    try:
        dataset.check_labels()
    except DataError as error:
        return str(error)
    return None
