"""Reading the tensors of a checkpoint file, and putting them into a module completely or not at all."""

import difflib
import json
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from densevit.errors import WeightsError


def read_state(path: str | Path) -> dict[str, Tensor]:
    """The tensors of a run folder, a .safetensors file or a torch checkpoint (weights only, under any usual key)."""
    path = Path(path).expanduser()
    if path.is_dir():
        path = path / "model.safetensors"
    if not path.is_file():
        raise WeightsError(f"{path}: no such file. Expected a run folder, a .safetensors file or a torch checkpoint.")
    if path.suffix == ".safetensors":
        return read_safetensors(path)[0]
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a spoilt pickle raises anything: KeyError, IndexError, UnicodeDecodeError, ...
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise WeightsError(f"{path}: not a checkpoint that can be read safely, as tensors only: {reason}") from error
    of_a_run = isinstance(content, Mapping) and "pytorch-lightning_version" in content
    for key in ("state_dict", "model", "module"):
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    tensors = {k: v for k, v in content.items() if isinstance(v, Tensor)} if isinstance(content, Mapping) else {}
    if not tensors:
        raise WeightsError(f"{path}: holds no tensors by name. Expected them bare, or under 'model' or 'state_dict'.")
    return part(tensors, "model.") if of_a_run else tensors


def read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors of a .safetensors file, and its header's own entries."""
    try:
        with safe_open(path, framework="pt") as file:
            return {key: file.get_tensor(key) for key in file.keys()}, file.metadata() or {}  # noqa: SIM118  # not a dict
    except (SafetensorError, OSError) as error:
        raise WeightsError(f"{path}: not a whole safetensors file ({error}). Copy or download it again.") from error


def load_state(module: nn.Module, state: Mapping[str, Tensor], source: str | Path) -> None:
    """Puts every tensor of `state` into `module`. Raises WeightsError, naming the keys, where the two do not fit.

    A table of another size, of positions for one, is carried over where the submodule that holds it has a method
    `carried_over(name, tensor)` that gives it the right shape; a warning says so.
    """
    own = module.state_dict()
    carried = {key: _carried_over(module, key, state[key], own[key]) for key in own if key in state}
    state = {**state, **{key: value for key, value in carried.items() if value is not None}}
    missing = [key for key in own if key not in state and not _counts_batches(key)]
    unexpected = [key for key in state if key not in own and not _counts_batches(key)]
    misshapen = [key for key in own if key in state and own[key].shape != state[key].shape]
    problems = []
    if missing:
        problems.append(f"{len(missing)} tensors are missing ({_some(missing)})")
    if unexpected:
        nearest = difflib.get_close_matches(unexpected[0], missing, n=1)
        hint = f"; did you mean {nearest[0]!r}?" if nearest else ""
        problems.append(f"{len(unexpected)} are not the model's ({_some(unexpected)}{hint})")
    if misshapen:
        key = misshapen[0]
        shapes = f"{key} is {tuple(state[key].shape)}, expected {tuple(own[key].shape)}"
        problems.append(f"{len(misshapen)} have another shape ({shapes})")
    if problems:
        raise WeightsError(
            f"{source} does not fit: {'; '.join(problems)}. Use the config it was trained with, or other weights."
        )
    for key, value in carried.items():
        if value is not None:
            warnings.warn(f"{source}: {key} was carried over to another size, {tuple(value.shape)}.", stacklevel=2)
    module.load_state_dict(state)


def _carried_over(module: nn.Module, key: str, tensor: Tensor, own: Tensor) -> Tensor | None:
    """The tensor in our shape, where it has another and its module can do that."""
    owner, _, name = key.rpartition(".")
    carry = getattr(module.get_submodule(owner), "carried_over", None)
    if tensor.shape == own.shape or tensor.ndim != own.ndim or carry is None:
        return None
    carried = carry(name, tensor)
    return carried if carried is not None and carried.shape == own.shape else None


def part(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors under a prefix, without it; the state as it is where none has that prefix."""
    inner = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
    return inner or dict(state)


def _counts_batches(key: str) -> bool:
    """Batch norm's count, which only norms that learn have and none needs."""
    return key.rpartition(".")[2] == "num_batches_tracked"


def _some(keys: list[str]) -> str:
    return ", ".join(keys[:3]) + (", ..." if len(keys) > 3 else "")


def header(entries: Mapping[str, Any]) -> dict[str, str]:
    """Entries as a safetensors header holds them: strings; what is none is written as JSON."""
    return {key: value if isinstance(value, str) else json.dumps(value) for key, value in entries.items()}
