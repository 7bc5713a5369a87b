"""Reads files of other projects: of torch, safetensors and numpy, and shards with an index; and what is beside them."""

import json
import zipfile
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from densevit.errors import WeightsError, one_line
from densevit.paths import user_path
from densevit.weights.checkpoint import Checkpoint
from densevit.weights.checkpoint_io import IN_FOLDER, file_of, read_file
from densevit.weights.file_kinds import file_format
from densevit_checkpoints.preprocessing import checkpoint_metadata, folder_metadata

_INDEX = ".index.json"  # the end of the name of an index of shards


def is_checkpoint(source: str | Path) -> bool:
    """Whether `read` reads a file, or the file in a folder."""
    with suppress(WeightsError, OSError):
        path = file_of(user_path(source))
        return path.name.endswith(_INDEX) or bool(file_format(path))
    return False


def read(source: str | Path, trust: bool = False) -> Checkpoint:
    """Reads a checkpoint file, or the one in a folder, with the metadata in it and beside it. trust: the parameter of
    `checkpoint_io.read`."""
    path = file_of(user_path(source))
    if path.name.endswith(_INDEX):
        checkpoint = Checkpoint(_sharded(path, trust), str(source), path=path)
    elif file_format(path) == "npz":
        checkpoint = Checkpoint(_arrays(path), str(source), path=path)
    else:
        checkpoint = read_file(source, trust)
    beside = folder_metadata(path.parent) if path.name in IN_FOLDER else {}
    return replace(checkpoint, metadata=beside | checkpoint_metadata(checkpoint.content))


def _sharded(index: Path, trust: bool) -> dict[str, Tensor]:
    """Reads all shards that an index file lists, from the folder of the index file."""
    files = [index.parent / name for name in sorted({*weight_map(index).values()})]
    try:
        for file in files:
            file.stat()
    except OSError as error:
        raise WeightsError(f"{index}: cannot be read ({error}).") from error
    shards = [read_file(file, trust) for file in files]
    return {name: tensor for shard in shards for name, tensor in shard.tensors.items()}


def weight_map(index: Path) -> dict[str, str]:
    """The shard's file name by tensor name, from the index file of a sharded checkpoint. Raises WeightsError if the
    file is not such an index."""
    try:
        files = json.loads(index.read_text(encoding="utf-8-sig"))["weight_map"]
    except (ValueError, LookupError, TypeError, RecursionError):
        files = None
    if not (
        files and isinstance(files, dict) and all(isinstance(x, str) and Path(x).name == x for x in files.values())
    ):
        raise WeightsError(
            f"{index}: not an index of shards in its folder. Expected a weight_map from tensor names to file names."
        )
    return files


def _arrays(path: Path) -> dict[str, Tensor]:
    """The arrays of an .npz file by name; pickled objects are refused."""
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except (ValueError, OSError, EOFError, zipfile.BadZipFile, MemoryError) as error:
        reason = "it contains pickled objects" if "allow_pickle" in str(error) else one_line(error)
        raise WeightsError(f"{path}: not a complete .npz of plain arrays: {reason}. Download it again.") from error
    tensors = {name: _tensor(array) for name, array in arrays.items() if isinstance(array, np.ndarray)}
    return {name: tensor for name, tensor in tensors.items() if tensor is not None}


def _tensor(array: np.ndarray) -> Tensor | None:
    """The tensor of a numeric array, else None. bfloat16, which numpy lacks, is stored as two untyped bytes."""
    if array.dtype == np.dtype("V2"):
        return torch.from_numpy(array.view(np.int16).copy()).view(torch.bfloat16)
    if array.dtype.kind not in "biufc":
        return None
    return torch.from_numpy(np.array(array, dtype=array.dtype.newbyteorder("=")))
