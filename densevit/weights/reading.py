"""Reading checkpoints: anybody's file, folder or published name becomes tensors by name. Nothing of a file is run."""

import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from densevit.errors import WeightsError, one_line
from densevit.weights import conventions, file_kinds, safe_unpickler, sources
from densevit.weights.state import read_safetensors

# Where projects put the model in what they save. The first that holds tensors is opened, and then what is in it.
_CONTAINERS = ("model", "state_dict", "model_state", "model_ema", "ema", "module", "state_dict_ema")
# What wrappers put before each name: distributed training's, torch.compile's.
_WRAPPERS = ("module.", "_orig_mod.")
# What a folder is read from. Ours, and the Hugging Face Hub's.
_IN_FOLDER = sources.HUB_FILES
_INDEX = ".index.json"


@dataclass(frozen=True)
class Checkpoint:
    """What a source holds.

    tensors: by name, as the project that made it calls them, on the CPU. source: the file or name it came from, for
    messages. entries: a safetensors header's own. facts: what came beside, where it did: `mean` and `std` of pixels in
    0 ... 1, `channel_order` where it is "bgr", `classes`, the names by row of the class head.
    """

    tensors: dict[str, Tensor]
    source: str
    entries: dict[str, str] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)


def read(source: str | Path) -> Checkpoint:
    """The checkpoint in a file or a folder, or that has a published name.

    source: a .pth, .pt, .pyth, .bin, .npz or .safetensors file; a run's folder or one of the Hugging Face Hub's, shards
    included; `timm:NAME[.TAG]`, `torchvision:NAME[/WEIGHTS]` or `hf:ORG/NAME[/FILE]`.
    Raises WeightsError, which says what is there instead and the mend.
    """
    if not sources.is_published(source):
        return _at(Path(source).expanduser(), str(source))
    found = sources.fetch(str(source))
    if isinstance(found.weights, Path):
        read = _at(found.weights, str(source))
        return Checkpoint(read.tensors, str(source), read.entries, {**read.facts, **found.facts})
    return Checkpoint(found.weights, str(source), facts=found.facts)


def _at(path: Path, source: str) -> Checkpoint:
    if path.is_dir():
        there = [path / name for name in _IN_FOLDER if (path / name).is_file()]
        if not there:
            ours = (path / "config.yaml").is_file()
            said = "The run has not validated yet: wait for" if ours else "Name a file, or a folder with"
            raise WeightsError(f"{path / _IN_FOLDER[0]}: no such file. {said} one of {', '.join(_IN_FOLDER)}.")
        path = there[0]
    if not path.is_file():
        raise WeightsError(
            f"{path}: no such file. Expected a checkpoint file, a run folder, or a published name: "
            f"{', '.join(sources.FORMS)}."
        )
    try:
        found = Checkpoint(_sharded(path), "") if path.name.endswith(_INDEX) else _in_file(path)
    except OSError as error:
        raise WeightsError(f"{path}: cannot be read ({error}).") from error
    facts = conventions.beside(path.parent) if path.name in _IN_FOLDER else {}
    return Checkpoint(_unwrapped(found.tensors, _WRAPPERS), source, found.entries, facts | found.facts)


def _in_file(path: Path) -> Checkpoint:
    kind = file_kinds.kind(path)
    if kind == "safetensors":
        tensors, entries = read_safetensors(path)
        return Checkpoint(tensors, "", entries)
    if kind == "npz":
        return Checkpoint(_arrays(path), "")
    content = safe_unpickler.load(path)
    tensors = _opened(content)
    if not tensors:
        raise WeightsError(f"{path}: {_without_tensors(content)}")
    if "pytorch-lightning_version" in content:
        tensors = _unwrapped(tensors, ("model.",))
    return Checkpoint(tensors, "", facts=conventions.of_checkpoint(content))


def _opened(content: Any, depth: int = 0) -> dict[str, Tensor]:
    """The tensors by name, out of the containers that they lie in; empty where there are none."""
    if not isinstance(content, Mapping) or depth > len(_CONTAINERS):  # a spoilt one may hold itself
        return {}
    for key in _CONTAINERS:
        inner = _opened(content.get(key), depth + 1)
        if inner:
            return inner
    return {str(key): value.detach() for key, value in content.items() if isinstance(value, Tensor)}


def _unwrapped(tensors: dict[str, Tensor], prefixes: Sequence[str]) -> dict[str, Tensor]:
    """The names without a wrapper's prefix, where all have it."""
    for prefix in prefixes:
        if tensors and all(name.startswith(prefix) for name in tensors):
            bare = {name.removeprefix(prefix): value for name, value in tensors.items()}
            return _unwrapped(bare, prefixes)
    return tensors


def _without_tensors(content: Any) -> str:
    """What a checkpoint holds in place of tensors by name, and the mend."""
    values = [content, *content.values()] if isinstance(content, Mapping) else [content]
    objects = sorted(
        {f"{type(v).__module__}.{type(v).__qualname__}" for v in values if isinstance(v, safe_unpickler.Inert)}
    )
    found = f"a {type(content).__name__}"
    if isinstance(content, Mapping) and not isinstance(content, safe_unpickler.Inert):
        found = f"the keys {', '.join(map(str, list(content)[:8]))}" if content else "nothing"
    if any(name.startswith("torch.nn.modules.") for name in objects):
        found += ": it is a whole pickled model, not the model's state_dict"
    pickled = f", with objects left unread: {', '.join(objects)}" if objects else ""
    return (
        f"holds no tensors by name, but {found}{pickled}. Expected them bare, or under 'model' or 'state_dict'. In the "
        "project that it comes from, save the tensors alone: torch.save(model.state_dict(), 'weights.pth')."
    )


def _sharded(index: Path) -> dict[str, Tensor]:
    """The tensors of all shards that an index names, which lie beside it. Raises WeightsError where one is missing."""
    where = conventions.weight_map(index)
    files = sorted(set(where.values()))
    missing = [name for name in files if not (index.parent / name).is_file()]
    if missing:
        raise WeightsError(
            f"{index}: {len(missing)} of {len(files)} shards are not beside it ({', '.join(missing[:3])}). Download "
            "them into the same folder."
        )
    tensors: dict[str, Tensor] = {}
    for name in files:
        tensors |= _in_file(index.parent / name).tensors
    lost = sorted(where.keys() - tensors.keys())
    if lost:
        raise WeightsError(
            f"{index}: {len(lost)} tensors are in none of the shards ({', '.join(lost[:3])}). The files are not of one "
            "download: fetch all again."
        )
    return tensors


def _arrays(path: Path) -> dict[str, Tensor]:
    """The arrays of an .npz by name, without pickles."""
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except (ValueError, OSError, EOFError, zipfile.BadZipFile, MemoryError) as error:
        reason = "it holds pickled objects" if "allow_pickle" in str(error) else one_line(error)
        raise WeightsError(
            f"{path}: not an .npz of plain arrays that is whole: {reason}. Download it again."
        ) from error
    found = {name: _tensor(array) for name, array in arrays.items() if isinstance(array, np.ndarray)}
    tensors = {name: tensor for name, tensor in found.items() if tensor is not None}
    if not tensors:
        raise WeightsError(f"{path}: holds no arrays of numbers. Expected weights by name.")
    return tensors


def _tensor(array: np.ndarray) -> Tensor | None:
    """The tensor of an array of numbers, None for another. bfloat16, which numpy lacks, is two bytes of no type."""
    if array.dtype == np.dtype("V2"):
        return torch.from_numpy(array.view(np.int16).copy()).view(torch.bfloat16)
    if array.dtype.kind not in "biufc":
        return None
    return torch.from_numpy(np.array(array, dtype=array.dtype.newbyteorder("=")))
