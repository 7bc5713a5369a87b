"""Reads and writes files of state dicts."""

import json
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from densevit.errors import WeightsError

FORMAT = 2  # `format_version` of model files, heads files and checkpoints


def read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors of a .safetensors file, and the metadata in its header."""
    with _opened(path) as file:
        return {key: file.get_tensor(key) for key in file.keys()}, file.metadata() or {}  # noqa: SIM118  # not a dict


def read_header(path: Path) -> dict[str, str]:
    """The metadata in the header of a .safetensors file."""
    with _opened(path) as file:
        return file.metadata() or {}


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """A .safetensors file. Raises WeightsError if it is damaged or missing."""
    try:
        with safe_open(path, framework="pt") as file:
            yield file
    except (SafetensorError, OSError) as error:
        raise WeightsError(f"{path}: not a complete safetensors file ({error}). Copy or download it again.") from error


def write_safetensors(state: Mapping[str, Tensor], path: Path, metadata: Mapping[str, str]) -> None:
    """Writes a .safetensors file with the permissions of any new file. Raises OSError if it cannot be written."""
    path.touch()
    mode = path.stat().st_mode  # by the process's umask; safetensors writes files for their owner only
    try:
        save_file(dict(state), path, metadata=dict(metadata))
    except SafetensorError as error:  # it contains only the text of a system error
        number = re.search(r"\(os error (\d+)\)", str(error))
        if number is None:
            raise
        raise OSError(int(number[1]), os.strerror(int(number[1])), str(path)) from None
    path.chmod(mode)


def write_torch(content: Any, path: Path) -> None:
    """Writes a file by `torch.save`. Raises OSError if it cannot be written."""
    try:
        with path.open("wb") as file:
            torch.save(content, file)
    except RuntimeError as error:  # torch raises its own error when it closes the archive
        if not isinstance(error.__context__, OSError):
            raise
        raise error.__context__ from None


def header(entries: Mapping[str, Any]) -> dict[str, str]:
    """Entries as strings for a safetensors header; values other than strings as JSON, with a dataclass as an object."""
    return {
        key: value if isinstance(value, str) else json.dumps(value, default=asdict) for key, value in entries.items()
    }
