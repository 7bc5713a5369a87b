"""Reads files of `torch.save` with torch's weights-only loader and placeholders for other objects.

The loader refuses files that refer to classes: the `argparse.Namespace` of a training script, a logger's buffer, a
numpy scalar. An empty class replaces each.
"""

import pickle
import warnings
import zipfile
from pathlib import Path
from typing import Any

import torch
import torch._weights_only_unpickler as unpickler
from torch.serialization import get_unsafe_globals_in_checkpoint, safe_globals

from densevit.errors import WeightsError


class _Equal(type):
    """A class that equals `dict`: torch adds items only to objects whose class is in its list, which contains dict."""

    def __eq__(cls, other: object) -> bool:
        return cls is other or other is dict

    __hash__ = type.__hash__


class Inert(dict[Any, Any], metaclass=_Equal):
    """Placeholder for an object whose class is not imported; each subclass has the name of such a class. Keeps the
    items of a subclass of dict, and drops all other contents."""

    __hash__ = object.__hash__  # type: ignore[assignment]  # it may be a dict key

    def __init__(self, *arguments: Any) -> None:
        super().__init__()

    def __setstate__(self, state: Any) -> None:
        pass


def load(path: Path, trust: bool = False) -> Any:
    """The content of a torch checkpoint, zip or legacy, on the CPU; unknown objects are `Inert`. Tensors of a zip are
    read from the file when they are used.

    trust: whether to import the file's classes and run its code. Raises WeightsError for an unreadable file, with the
    classes in it.
    """
    names: list[str] = []
    try:
        is_zip = zipfile.is_zipfile(path)
        names = [] if trust else _unknown_names(path, is_zip)
        mmap = is_zip and path.suffix != ".safetensors"  # by that name torch reads another format
        with path.open("rb") as file, warnings.catch_warnings(), safe_globals([_placeholder(name) for name in names]):
            warnings.simplefilter("ignore")
            source = str(path) if mmap else file
            return torch.load(
                source, "cpu", weights_only=not trust, mmap=mmap, encoding="latin1"
            )  # for Python 2's bytes
    except Exception as error:  # a corrupt pickle raises anything
        classes = f", with {', '.join(names[:5])} in it" if names else ""
        raise WeightsError(
            f"{path}: cannot be read ({path.stat().st_size:,} bytes{classes}): {reason(error)}. "
            "Copy or download it again. If it is complete and you trust it, densevit.load(..., trust=True) and "
            "--trust run its code to read it; or save its state_dict() with torch.save in its own project."
        ) from error


def reason(error: Exception) -> str:
    """The first line of a loader's error message, without torch's advice."""
    if isinstance(error, pickle.UnpicklingError) and isinstance(error.__context__, pickle.UnpicklingError):
        error = error.__context__
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0].partition(". Please")[0].strip().rstrip(".")


def _unknown_names(path: Path, is_zip: bool) -> list[str]:
    """The classes and functions in a file that torch's weights-only loader refuses."""
    if is_zip:
        return sorted(get_unsafe_globals_in_checkpoint(path))
    with path.open("rb") as file:  # legacy: magic number, version, machine, content
        names = set().union(*[unpickler.get_globals_in_pkl(file) for _ in range(4)])
    return sorted(names - unpickler._get_allowed_globals().keys())


def _placeholder(name: str) -> tuple[Any, str]:
    """An empty class of this name, for `safe_globals`."""
    module, _, short = name.rpartition(".")
    return _Equal(short, (Inert,), {"__module__": module, "__qualname__": short}), name
