"""What a weights file is, told from its bytes and not from its name; and what a file is that holds no weights."""

import io
import pickletools
import re
import string
import tarfile
import zipfile
from pathlib import Path
from typing import Literal

from densevit.errors import WeightsError

Kind = Literal["torch", "safetensors", "npz"]

EXPECTED = "Expected a .pth, .pt, .pyth, .bin, .npz or .safetensors checkpoint"
_AGAIN = "Download it again"
_TORCH = 0x1950A86A20F9469CFC6C  # the first thing in a file of torch.save before 1.6
_HEAD = 4096
_PRINTABLE = set(string.printable.encode()) | set(range(0x80, 0x100))
_OTHERS: tuple[tuple[bytes, str, str], ...] = (
    (b"\x89HDF\r\n\x1a\n", "an HDF5 file, as Keras writes (.h5)", "Take the project's PyTorch weights"),
    (b"\x93NUMPY", "a single numpy array (.npy)", "Save arrays by name with numpy.savez"),
    (b"\x1f\x8b", "compressed with gzip", "Unpack it and name a file in it"),
    (b"\xfd7zXZ\x00", "compressed with xz", "Unpack it and name a file in it"),
    (b"BZh", "compressed with bzip2", "Unpack it and name a file in it"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive", "Unpack it and name a file in it"),
    (b"GGUF", "a GGUF file", "Take the project's PyTorch weights"),
)


def kind(path: Path) -> Kind:
    """What a file is read as. Raises WeightsError, which says what it is instead, where it is no checkpoint."""
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(_HEAD)
    if not head:
        raise _other(path, "empty, 0 bytes", _AGAIN)
    if head.startswith(b"PK\x03\x04"):
        return _in_zip(path, size)
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") < 1 << 27:
        return "safetensors"
    if head[:1] == b"\x80" and b"\x02" <= head[1:2] <= b"\x05":
        return _in_pickle(path, head)
    found, mend = _not_weights(path, head)
    if path.suffix == ".safetensors" and not mend:
        return "safetensors"  # which says what is wrong with it
    raise _other(path, found, mend or _AGAIN)


def _other(path: Path, found: str, mend: str) -> WeightsError:
    return WeightsError(f"{path}: is {found}. {EXPECTED}. {mend}.")


def _in_zip(path: Path, size: int) -> Kind:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, OSError, ValueError) as error:
        found = f"the beginning of a zip archive, {size:,} bytes, whose end is missing or spoilt: a part of a download"
        raise _other(path, found, _AGAIN) from error
    files = {name.split("/")[-1] for name in names}
    if "constants.pkl" in files:
        raise _other(
            path,
            "a TorchScript archive: a program with its weights",
            "With torch.jit.load, save its state_dict() with torch.save, or take the project's plain weights",
        )
    if "data.pkl" in files:
        return "torch"
    if names and all(name.endswith(".npy") for name in names):
        return "npz"
    if "model.weights.h5" in files:
        raise _other(path, "a Keras model (.keras)", "Take the project's PyTorch weights")
    if "serialized_exported_program.json" in files or "archive_format" in files:
        raise _other(path, "a program of torch.export (.pt2)", "Take the weights that it was exported from")
    inside = f"{', '.join(names[:3])}{', ...' if len(names) > 3 else ''}" if names else "nothing"
    raise _other(
        path, f"a zip archive without a checkpoint's data.pkl; it holds {inside}", "Unpack it and name a file in it"
    )


def _in_pickle(path: Path, head: bytes) -> Kind:
    try:
        first = [
            argument
            for operation, argument, _ in pickletools.genops(io.BytesIO(head))
            if operation.name not in ("PROTO", "FRAME")
        ]
    except Exception:  # longer than the head, or no pickle
        first = []
    if first[:1] == [_TORCH]:
        return "torch"
    if len(head) < 16:
        raise _other(path, f"the beginning of a pickle, {len(head)} bytes: a part of a download", _AGAIN)
    whose = "as detectron2's model zoo has them" if path.suffix == ".pkl" else "not made by torch.save"
    raise _other(
        path,
        f"a bare pickle, {whose}, which cannot be read without running it",
        "In the project that it comes from, load it and save its tensors with safetensors.torch.save_file",
    )


def _not_weights(path: Path, head: bytes) -> tuple[str, str]:
    """What a file is and the mend, empty where nothing is known about it."""
    text = head.decode("utf-8", "replace").strip()
    for beginning, found, mend in _OTHERS:
        if head.startswith(beginning):
            return found, mend
    if head.startswith(b"version https://git-lfs"):
        size = re.search(r"^size (\d+)", text, re.MULTILINE)
        whole = f" to a file of {int(size[1]):,} bytes" if size else ""
        return f"a git-LFS pointer{whole}, not the file", "Run `git lfs pull` where it was cloned, or download the file"
    if head[257:262] == b"ustar":
        return _in_tar(path), "Unpack it and name a file in it, or take the project's newer weights"
    if path.suffix == ".onnx" or re.match(rb"\x08[\x01-\x1f]\x12.{1,2}[\w.-]{3}", head):
        return "an ONNX model", "Take the project's PyTorch weights"
    if not all(byte in _PRINTABLE for byte in head):
        return f"{path.stat().st_size:,} bytes of no format that is known here, beginning with 0x{head[:8].hex()}", ""
    if re.match(r"<!doctype html|<html|<head|<\?xml|<\w+[ >]", text, re.IGNORECASE):
        title = re.search(r"<(title|message)>\s*(.*?)\s*</\1>", text, re.IGNORECASE | re.DOTALL)
        called = f" ({title[2][:80]!r})" if title else ""
        return (
            f"a web page{called}: the download met a login, an error or a preview",
            "Download it again, from the file's own address: with `resolve` for `blob` on the Hugging Face Hub, with "
            "`raw` on GitHub",
        )
    if text[:1] in ("{", "["):
        return (
            f"JSON, not weights: {_line(text)}",
            "Where it is an error of the server's, mend that and download it again",
        )
    return f"text, not weights: {_line(text)}", _AGAIN


def _in_tar(path: Path) -> str:
    try:
        with tarfile.open(path) as archive:
            names = archive.getnames()
    except (tarfile.TarError, OSError):
        return "a tar archive that is not whole"
    if {"storages", "tensors", "pickle"} <= set(names):
        return "in the tar format of torch before 0.1.10, which cannot be read safely"
    return f"a tar archive; it holds {', '.join(names[:3])}{', ...' if len(names) > 3 else ''}"


def _line(text: str) -> str:
    line = " ".join(text.split())
    return repr(line if len(line) <= 80 else line[:77] + "...")
