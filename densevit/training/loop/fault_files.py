"""Files that reproduce a non-finite step: its batches, the weights before it and the random state."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from densevit.atomic_io import replaced_file
from densevit.errors import WeightsError
from densevit.targets.run_length_masks import RunLengthMasks
from densevit.weights import safe_unpickler
from densevit.weights.state import write_torch

FORMAT = 1
_CODED = "run_length_masks"
_ARRAYS = ("owner", "column", "top", "bottom")


def write(path: Path, content: Mapping[str, Any]) -> None:
    """Writes the content, reduced to tensors and plain values, atomically."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with replaced_file(path) as temporary:
        write_torch(_plain({"format": FORMAT, **content}), temporary)


def read(path: Path) -> dict[str, Any]:
    """Reads a file of `write` to the CPU. No code in the file is run.

    Raises WeightsError if the file is missing, damaged, or not of this format.
    """
    if not path.is_file():
        raise WeightsError(f"{path}: no such file. Fix: name a file in a run's folder `faults`, as step_00000123.pt.")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged pickle may raise any error
        raise WeightsError(
            f"{path}: not a complete file of tensors and plain values ({safe_unpickler.reason(error)}). No code in it "
            "was run. Fix: copy it again."
        ) from error
    lacking = {"step", "config", "classes", "precision", "state_dict", "batches", "random_state"} - (
        content.keys() if isinstance(content, dict) else set()
    )
    if lacking or content.get("format") != FORMAT:
        raise WeightsError(
            f"{path}: not a file of a non-finite step. Fix: name a file in a run's folder `faults`; a checkpoint is "
            "resumed with densevit train --resume RUN."
        )
    restored: dict[str, Any] = _restored(content)
    return restored


def _plain(value: Any) -> Any:
    """Copies tensors to the CPU and keeps lists, dicts and plain values; other values are left out."""
    if isinstance(value, Tensor):
        return value.detach().cpu().clone()
    if isinstance(value, RunLengthMasks):
        arrays = {name: torch.from_numpy(getattr(value, name).copy()) for name in _ARRAYS}
        return {_CODED: {"size": list(map(int, value.size)), "count": int(value.count), **arrays}}
    if isinstance(value, np.ndarray):
        return torch.from_numpy(value.copy())
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, Mapping):
        plain = {key: _plain(item) for key, item in value.items()}
        return {key: item for key, item in plain.items() if item is not None or value[key] is None}
    if isinstance(value, list | tuple):
        return (tuple if isinstance(value, tuple) else list)(map(_plain, value))
    return value if isinstance(value, str | int | float | bool | None) else None


def _restored(value: Any) -> Any:
    if isinstance(value, dict):
        if value.keys() == {_CODED}:
            coded = value[_CODED]
            arrays = {name: coded[name].numpy() for name in _ARRAYS}
            return RunLengthMasks(tuple(coded["size"]), coded["count"], **arrays)
        return {key: _restored(item) for key, item in value.items()}
    return [_restored(item) for item in value] if isinstance(value, list) else value
