"""The files of a sharded checkpoint: the data files of `torch.distributed.checkpoint`, with a JSON index.

Torch's own index, `.metadata`, is a pickle, and its values may be too: loading them could run code in the files.
"""

import io
import json
from pathlib import Path
from typing import Any

import torch
from torch.distributed.checkpoint import DefaultLoadPlanner, FileSystemReader, FileSystemWriter
from torch.distributed.checkpoint.filesystem import _StorageInfo
from torch.distributed.checkpoint.metadata import (
    BytesStorageMetadata,
    ChunkStorageMetadata,
    Metadata,
    MetadataIndex,
    StorageMeta,
    TensorProperties,
    TensorStorageMetadata,
)
from torch.distributed.checkpoint.planner import ReadItem

INDEX = "index.json"
_VERSION = 1
_LARGEST_INDEX = 2**30  # bytes
_Stored = dict[MetadataIndex, _StorageInfo]


class ShardWriter(FileSystemWriter):
    """Writes the index after all processes have written their parts."""

    def finish(self, metadata: Metadata, results: Any) -> None:
        stored = {result.index: result.storage_data for part in results for result in part}
        document: dict[str, Any] = {"version": _VERSION, "tensors": {}, "values": {}}
        for name, entry in metadata.state_dict_metadata.items():
            if isinstance(entry, BytesStorageMetadata):
                document["values"][name] = _place(stored[MetadataIndex(name)])
                continue
            document["tensors"][name] = {
                "dtype": str(entry.properties.dtype).removeprefix("torch."),
                "size": list(entry.size),
                "chunks": [
                    {
                        "offsets": list(chunk.offsets),
                        "size": list(chunk.sizes),
                        **_place(stored[MetadataIndex(name, chunk.offsets)]),
                    }
                    for chunk in entry.chunks
                ],
            }
        (Path(self.path) / INDEX).write_text(json.dumps(document), encoding="utf-8")


class ShardReader(FileSystemReader):
    """Reads the index without unpickling; `SafePlanner` reads the values."""

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        """Raises ValueError if a file is missing or shorter than the index says, or the index is damaged."""
        folder = Path(self.path)
        if not (folder / INDEX).is_file():
            pickled = ", only torch's, which is a pickle" if (folder / ".metadata").exists() else ""
            raise ValueError(f"it has no {INDEX}{pickled}")
        if (folder / INDEX).stat().st_size > _LARGEST_INDEX:
            raise ValueError(f"{INDEX} has over {_LARGEST_INDEX:,} bytes")
        try:
            entries, stored = _parsed(json.loads((folder / INDEX).read_text("utf-8")))
        except (LookupError, TypeError, AttributeError, RecursionError, json.JSONDecodeError) as error:
            raise ValueError(f"{INDEX} is damaged: {type(error).__name__}: {error}") from error
        ends: dict[str, int] = {}
        for part in stored.values():
            ends[part.relative_path] = max(ends.get(part.relative_path, 0), part.offset + part.length)
        for name, end in ends.items():
            if not (folder / name).is_file():
                raise ValueError(f"{name} is missing")
            if (size := (folder / name).stat().st_size) < end:
                raise ValueError(f"{name} has {size} bytes of {end}")
        return Metadata(entries, storage_data=stored, storage_meta=StorageMeta(load_id=self.load_id))


class SafePlanner(DefaultLoadPlanner):
    """Reads values other than tensors without running code."""

    def load_bytes(self, read_item: ReadItem, value: io.BytesIO) -> None:
        """Raises UnpicklingError for an object that is not a plain value."""
        plain = torch.load(value, map_location="cpu", weights_only=True)
        copy = io.BytesIO()  # torch's planner unpickles its input
        torch.save(plain, copy)
        copy.seek(0)
        super().load_bytes(read_item, copy)


def _place(part: _StorageInfo) -> dict[str, Any]:
    return {"file": part.relative_path, "first": part.offset, "bytes": part.length}


def _parsed(document: Any) -> tuple[dict[str, Any], _Stored]:
    if document["version"] != _VERSION:
        raise ValueError(f"{INDEX} has version {document['version']!r}; expected {_VERSION}")
    entries: dict[str, Any] = {}
    stored: _Stored = {}
    for name, tensor in document["tensors"].items():
        dtype, chunks = getattr(torch, tensor["dtype"]), []
        if not isinstance(dtype, torch.dtype):
            raise ValueError(f"{INDEX}: {name} has the dtype {tensor['dtype']!r}")
        for chunk in tensor["chunks"]:
            chunks.append(ChunkStorageMetadata(_numbers(chunk["offsets"]), _numbers(chunk["size"])))
            stored[MetadataIndex(name, chunks[-1].offsets)] = _part(chunk)
        entries[name] = TensorStorageMetadata(TensorProperties(dtype), _numbers(tensor["size"]), chunks)
    for name, value in document["values"].items():
        entries[name] = BytesStorageMetadata()
        stored[MetadataIndex(name)] = _part(value)
    return entries, stored


def _part(value: Any) -> _StorageInfo:
    """Raises ValueError for a file outside of the folder."""
    file, (first, length) = value["file"], _numbers([value["first"], value["bytes"]])
    if Path(file).name != file:
        raise ValueError(f"{INDEX} names {file!r}, which is no file in the folder")
    return _StorageInfo(file, first, length)


def _numbers(values: Any) -> torch.Size:
    if not isinstance(values, list) or not all(type(value) is int and 0 <= value < 2**62 for value in values):
        raise ValueError(f"{INDEX}: {values!r} are not whole numbers of 0 or more")
    return torch.Size(values)
