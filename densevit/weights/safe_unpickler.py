"""Unpickles `torch.save` files without running their code: tensors and plain values, with placeholders for the rest.

Torch's weights-only loader refuses files with other objects: the `argparse.Namespace` of a training script, a logger's
buffer, a numpy scalar. Here an allow-list rebuilds tensors, and every other class is replaced by an empty one.
"""

import pickle
import re
import types
import warnings
import zipfile
from _compat_pickle import IMPORT_MAPPING, NAME_MAPPING
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from densevit.errors import WeightsError

_FORBIDDEN = ("os", "posix", "nt", "sys", "subprocess")  # modules that no checkpoint needs
_LARGEST_RATIO = 100  # of a zip archive's content to its size; torch.save does not compress


class Inert(dict[Any, Any]):
    """Placeholder for an object, in a subclass with its name. Keeps the items of a dict and drops everything else."""

    __hash__ = object.__hash__  # type: ignore[assignment]  # it may be a dict key

    def __new__(cls, *arguments: Any, **keywords: Any) -> "Inert":
        return dict.__new__(cls)

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        pass

    def __call__(self, *arguments: Any) -> "Inert":
        return Inert()

    def __setstate__(self, state: Any) -> None:
        pass

    def append(self, item: Any) -> None:
        pass

    def extend(self, items: Any) -> None:
        pass


def load(path: Path) -> Any:
    """The content of a torch checkpoint, zip or legacy, on the CPU; objects are `Inert`.

    Raises WeightsError if the file is incomplete or refers to modules that no checkpoint needs.
    """
    try:
        if zipfile.is_zipfile(path):
            _check_zip(path)
        with path.open("rb") as file, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return torch.load(
                file if path.suffix == ".safetensors" else path,  # torch reads paths with this suffix as safetensors
                map_location="cpu",
                pickle_module=_PICKLE,
                weights_only=False,
                encoding="latin1",  # bytes of Python 2
            )
    except WeightsError as error:
        raise WeightsError(f"{path}: {error}") from None
    except Exception as error:  # a corrupt pickle raises anything
        raise WeightsError(
            f"{path}: not a complete checkpoint: {path.stat().st_size:,} bytes, reading fails with: {reason(error)}. "
            "Copy or download it again."
        ) from error


def reason(error: Exception) -> str:
    """The first line of a loader's error message."""
    text = str(error).strip()
    if isinstance(error, pickle.UnpicklingError) and (found := re.search(r"WeightsUnpickler error: (.*)", text)):
        text = found[1]
    return (text.splitlines() or [type(error).__name__])[0].strip().rstrip(".")


def _check_zip(path: Path) -> None:
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
    if any(entry.filename.endswith("constants.pkl") for entry in entries):
        raise WeightsError("is a TorchScript archive, a program. Save its state_dict() with torch.save.")
    if sum(entry.file_size for entry in entries) > _LARGEST_RATIO * path.stat().st_size:
        raise WeightsError("unpacks to over a hundred times its size: it may be malicious. None of its code was run.")


class _Unpickler(pickle._Unpickler):  # the Python one: the C one allocates memory for any memo index
    """Resolves classes with the allow-list. Torch subclasses it to add storages."""

    def find_class(self, module: str, name: str) -> Any:
        module, name = NAME_MAPPING.get((module, name), (IMPORT_MAPPING.get(module, module), name))  # of Python 2
        if module.partition(".")[0] in _FORBIDDEN:
            raise WeightsError(
                f"refers to {module}:{name}, which no checkpoint needs: it may be malicious. None of its code was run. "
                "Download the weights from a trusted source, preferably as .safetensors."
            )
        if module == "torch" and isinstance(getattr(torch, name, None), (torch.dtype, torch.qscheme)):
            return getattr(torch, name)
        return _ALLOWED.get((module, name)) or _placeholder(module, name)


def _placeholder(module: str, name: str) -> type[Inert]:
    return type(name, (Inert,), {"__module__": module, "__qualname__": name})


def _attribute(owner: Any, name: Any) -> type[Inert]:
    """Replaces getattr, by which pickles refer to nested classes."""
    return _placeholder(str(getattr(owner, "__module__", "")), str(name))


def _check_storage(storage: Any, offset: int, size: tuple[int, ...], stride: tuple[int, ...]) -> None:
    """Raises UnpicklingError if a storage is too small, which torch would enlarge."""
    last = offset + sum((length - 1) * step for length, step in zip(size, stride, strict=True))
    if 0 not in size and last >= storage.size():
        raise pickle.UnpicklingError(f"a tensor of shape {tuple(size)} in a storage of {storage.size()} numbers")


def _tensor(storage: Any, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *_: Any) -> Tensor:
    _check_storage(storage, offset, size, stride)
    return torch._utils._rebuild_tensor(storage, offset, size, stride)


def _tensor_v3(
    storage: Any,
    offset: int,
    size: tuple[int, ...],
    stride: tuple[int, ...],
    grad: bool,
    hooks: Any,
    dtype: Any,
    *_: Any,
) -> Tensor:
    typed = torch.storage.TypedStorage(wrap_storage=storage._untyped_storage, dtype=dtype, _internal=True)
    return _tensor(typed, offset, size, stride)


def _quantized(storage: Any, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *rest: Any) -> Tensor:
    _check_storage(storage, offset, size, stride)
    return torch._utils._rebuild_qtensor(storage, offset, size, stride, *rest)


def _parameter(data: Any, *_: Any) -> Any:
    return data


def _of_a_type(rebuild: Callable[..., Any], kind: Any, arguments: Any, state: Any) -> Any:
    """A tensor of a subclass or with attributes, as a plain tensor."""
    return rebuild(*arguments) if rebuild in _ALLOWED.values() else Inert()


_ALLOWED: dict[tuple[str, str], Callable[..., Any]] = {
    ("collections", "OrderedDict"): OrderedDict,
    ("torch", "Size"): torch.Size,
    ("torch", "device"): torch.device,
    ("torch._utils", "_rebuild_tensor"): _tensor,
    ("torch._utils", "_rebuild_tensor_v2"): _tensor,
    ("torch._utils", "_rebuild_tensor_v3"): _tensor_v3,
    ("torch._utils", "_rebuild_qtensor"): _quantized,
    ("torch._utils", "_rebuild_sparse_tensor"): torch._utils._rebuild_sparse_tensor,
    ("torch.serialization", "_get_layout"): torch.serialization._get_layout,
    ("torch", "UntypedStorage"): torch.UntypedStorage,
    ("torch.storage", "UntypedStorage"): torch.UntypedStorage,
    ("torch._utils", "_rebuild_parameter"): _parameter,
    ("torch._utils", "_rebuild_parameter_with_state"): _parameter,
    ("torch._tensor", "_rebuild_from_type_v2"): _of_a_type,
    ("builtins", "getattr"): _attribute,
}
_PICKLE = types.SimpleNamespace(  # what torch.load uses of a pickle module
    Unpickler=_Unpickler, load=lambda file, **options: _Unpickler(file, **options).load(), __name__="safe_unpickler"
)
