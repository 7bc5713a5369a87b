"""Detects the format of a weights file from its first bytes, whatever its name."""

import re
import zipfile
from pathlib import Path
from typing import Literal

from densevit.errors import WeightsError

Kind = Literal["torch", "safetensors", "npz"]

_EXPECTED = "Expected a .pth, .pt, .pyth, .bin, .npz or .safetensors checkpoint"
_AGAIN = "Download it again"
_LEGACY_TORCH = bytes.fromhex("8a0a6cfc9c46f9206aa85019")  # the magic number of torch.save before 1.6, pickled
_HEAD = 4096  # bytes read
_SHOWN = 60  # of them in a message


def kind(path: Path) -> Kind:
    """The format of a checkpoint. Raises WeightsError for anything else: the file, what it is and the fix."""
    with path.open("rb") as file:
        head = file.read(_HEAD)
    size = f"{path.stat().st_size:,} bytes"
    if head.startswith(b"PK\x03\x04"):
        return _zip_kind(path, size)
    if _LEGACY_TORCH in head[:32]:
        return "torch"
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") < 1 << 27:  # the header's length, then its JSON
        return "safetensors"
    if not head:
        raise _invalid(path, f"an empty file, {size}")
    if re.match(rb"\s*<(!doctype )?html", head, re.IGNORECASE):
        title = re.search(r"<title>\s*(.*?)\s*</title>", head.decode("utf-8", "replace"), re.IGNORECASE | re.DOTALL)
        fix = "Download the file itself: use `resolve` in place of `blob` in a Hugging Face address, `raw` on GitHub"
        raise _invalid(path, "an HTML page" + (f" ({title[1][:_SHOWN]!r})" if title else ""), fix)
    if head.startswith(b"version https://git-lfs"):
        fix = "Run `git lfs pull` in its repository, or download the file"
        raise _invalid(path, "a git-LFS pointer, not the file", fix)
    if path.suffix == ".safetensors":
        return "safetensors"  # the reader reports what is wrong with it
    if re.match(rb"\x80[\x02-\x05]", head) and len(head) >= 16:
        raise _invalid(
            path,
            "a bare pickle, not made by torch.save; loading it would run its code",
            "Save its tensors once where you trust it: docs/weights.md, section Pickles, has the lines",
        )
    raise _invalid(path, f"not a checkpoint: {size}, the first are {head[:_SHOWN]!r}")


def _invalid(path: Path, found: str, fix: str = _AGAIN) -> WeightsError:
    return WeightsError(f"{path}: is {found}. {_EXPECTED}. {fix}.")


def _zip_kind(path: Path, size: str) -> Kind:
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
    inside = ", ".join(names[:3]) or "nothing"
    raise _invalid(path, f"a zip archive without data.pkl; it holds {inside}", "Unpack it and name a file in it")
