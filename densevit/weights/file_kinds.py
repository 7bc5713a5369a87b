"""Detects the format of a weights file from its first bytes, regardless of its name."""

import re
import zipfile
from pathlib import Path
from typing import Literal

from densevit.errors import WeightsError

Format = Literal["torch", "safetensors", "npz"]

_EXPECTED = "Expected a .pth, .pt, .pyth, .bin, .npz or .safetensors checkpoint"
_AGAIN = "Download it again"
_LEGACY_TORCH = bytes.fromhex("8a0a6cfc9c46f9206aa85019")  # the magic number of torch.save before 1.6, pickled
_NOT_CHECKPOINTS: tuple[
    tuple[bytes, str, str], ...
] = (  # files mistaken for checkpoints: the pattern of their first bytes, what they are and the fix
    (rb"\Z", "an empty file", _AGAIN),
    (
        rb"\s*<(!doctype )?html",
        "an HTML page",
        "Download the file itself: use `resolve` in place of `blob` in a Hugging Face address, `raw` on GitHub",
    ),
    (
        rb"version https://git-lfs",
        "a git-LFS pointer, not the file",
        "Run `git lfs pull` in its repository, or download the file",
    ),
    (
        rb"\x80[\x02-\x05](?s:.{14})",
        "a bare pickle, not made by torch.save; loading it would run its code",
        "Save its tensors once where you trust it: docs/weights.md, section Pickles, has the lines",
    ),
)
_HEAD = 4096  # bytes read


def file_format(path: Path) -> Format:
    """The format of a checkpoint file. For a file that is no checkpoint, such as an HTML page, raises WeightsError that
    tells what the file is, and the fix."""
    with path.open("rb") as file:
        head = file.read(_HEAD)
    size = f"{path.stat().st_size:,} bytes"
    if head.startswith(b"PK\x03\x04"):
        return _zip_kind(path, size)
    if _LEGACY_TORCH in head[:32]:
        return "torch"
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") < 1 << 27:  # the header's length, then its JSON
        return "safetensors"
    if path.suffix == ".safetensors" and not head.startswith(b"version"):
        return "safetensors"  # the reader reports what is wrong with it
    for pattern, description, fix in _NOT_CHECKPOINTS:
        if re.match(pattern, head, re.IGNORECASE):
            raise _invalid(path, description, fix)
    raise _invalid(path, f"not a checkpoint: {size}, the first are {head[:60]!r}")


def _invalid(path: Path, description: str, fix: str = _AGAIN) -> WeightsError:
    return WeightsError(f"{path}: is {description}. {_EXPECTED}. {fix}.")


def _zip_kind(path: Path, size: str) -> Format:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, OSError, ValueError) as error:
        raise _invalid(path, f"a truncated or corrupt zip archive, {size}") from error
    files = {name.split("/")[-1] for name in names}
    if "data.pkl" in files:
        return "torch"
    if names and all(name.endswith(".npy") for name in names):
        return "npz"
    raise _invalid(path, f"a zip archive without data.pkl, {size}", "Unpack it and name a file in it")
