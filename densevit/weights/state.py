"""State dicts: reads safetensors files, selects the part of a submodule, counts its blocks."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

from densevit.errors import WeightsError


def read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors of a .safetensors file, and the metadata in its header."""
    try:
        with safe_open(path, framework="pt") as file:
            return {key: file.get_tensor(key) for key in file.keys()}, file.metadata() or {}  # noqa: SIM118  # not a dict
    except (SafetensorError, OSError) as error:
        raise WeightsError(f"{path}: not a complete safetensors file ({error}). Copy or download it again.") from error


def read_header(path: Path) -> dict[str, str]:
    """The metadata in the header of a .safetensors file."""
    try:
        with safe_open(path, framework="pt") as file:
            return file.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise WeightsError(f"{path}: not a complete safetensors file ({error}). Copy or download it again.") from error


def part(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors with a prefix, with the prefix removed; the whole state dict if no key has it."""
    inner = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
    return inner or dict(state)


def count(state: Mapping[str, Tensor], pattern: str) -> int:
    """The number of values of a pattern's group among the keys: of `blocks\\.(\\d+)\\..*`, the number of blocks."""
    return len({match[1] for key in state if (match := re.fullmatch(pattern, key))})


def header(entries: Mapping[str, Any]) -> dict[str, str]:
    """Entries as strings for a safetensors header; other values are converted to JSON."""
    return {key: value if isinstance(value, str) else json.dumps(value) for key, value in entries.items()}
