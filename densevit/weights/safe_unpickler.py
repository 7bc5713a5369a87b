"""Unpickles `torch.save` files without running their code: tensors and plain values, with placeholders for the rest.

Torch's weights-only loader refuses files with other objects: the `argparse.Namespace` of a training script, a logger's
buffer, a numpy scalar. Here functions of this module rebuild tensors, and every other class is replaced by an empty
one.
"""

import math
import pickle
import re
import tarfile
import types
import warnings
import zipfile
from _compat_pickle import IMPORT_MAPPING, NAME_MAPPING
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.serialization import StorageType

from densevit.errors import WeightsError
from densevit.weights.restricted_pickle import Inert, RestrictedUnpickler, placeholder, update

_FORBIDDEN = ("os", "posix", "nt", "sys", "subprocess")  # modules that no checkpoint needs
_LARGEST_RATIO = 100  # of a zip archive's content to its size; torch.save does not compress
_LARGEST_EXPANDED = 2**24  # elements of a tensor that repeats those of its storage


def load(path: Path) -> Any:
    """The content of a torch checkpoint, zip or legacy, on the CPU; objects are `Inert`.

    Raises WeightsError if the file is incomplete or refers to modules that no checkpoint needs.
    """
    try:
        unpickler = _unpickler_of(path)
        with path.open("rb") as file, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return torch.load(
                file if path.suffix == ".safetensors" else path,  # torch reads paths with this suffix as safetensors
                map_location="cpu",
                pickle_module=unpickler,
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


def _unpickler_of(path: Path) -> Any:
    """What torch.load uses of a pickle module, for this file. Raises WeightsError for an archive that is not read."""
    with path.open("rb") as file:
        is_zip = file.read(4) == b"PK\x03\x04"  # as torch decides
    records = _records(path) if is_zip else None
    if not is_zip and _is_tar(path):
        raise WeightsError(
            "is a tar archive, of torch before 0.2, whose links and devices torch would extract. In the project it "
            "comes from, load it and save it with torch.save."
        )

    class Unpickler(_Unpickler):
        sizes, free = records, path.stat().st_size

    return types.SimpleNamespace(
        Unpickler=Unpickler, load=lambda file, **options: Unpickler(file, **options).load(), __name__="safe_unpickler"
    )


def _records(path: Path) -> dict[str, int]:
    """The sizes of a zip archive's files, by name in its folder. Raises WeightsError for one that is not read."""
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
    names = [entry.filename.lower() for entry in entries]  # torch finds them without case
    if any(name.endswith("constants.pkl") for name in names):
        raise WeightsError("is a TorchScript archive, a program. Save its state_dict() with torch.save.")
    if len(set(names)) < len(names):
        raise WeightsError("has two parts of one name: it may be malicious. None of its code was run.")
    if sum(entry.file_size for entry in entries) > _LARGEST_RATIO * path.stat().st_size:
        raise WeightsError("unpacks to over a hundred times its size: it may be malicious. None of its code was run.")
    return {entry.filename.partition("/")[2]: entry.file_size for entry in entries}


def _is_tar(path: Path) -> bool:
    try:
        with tarfile.open(path, "r:"):
            return True
    except tarfile.TarError:
        return False


class _Unpickler(RestrictedUnpickler):
    """Resolves classes with the allow-list, and checks storages. Torch subclasses it to read them.

    sizes: the sizes of the zip archive's files; None for the legacy format. free: bytes of a legacy file without a
    storage.
    """

    sizes: Mapping[str, int] | None = None
    free = 0
    persistent_load: Any

    def __init__(self, file: Any, **options: Any) -> None:
        super().__init__(file, **options)
        self.functions = _FUNCTIONS
        self.known_storages: set[str] = set()

    def find_class(self, module: str, name: str) -> Any:
        module, name = NAME_MAPPING.get((module, name), (IMPORT_MAPPING.get(module, module), name))  # of Python 2
        if module.partition(".")[0] in _FORBIDDEN:
            raise WeightsError(
                f"refers to {module}:{name}, which no checkpoint needs: it may be malicious. None of its code was run. "
                "Download the weights from a trusted source, preferably as .safetensors."
            )
        if module == "torch" and isinstance(vars(torch).get(name), (torch.dtype, torch.qscheme)):
            return vars(torch)[name]
        return _ALLOWED.get((module, name)) or placeholder(module, name)

    def load_binpersid(self) -> None:
        """(kind, type, key, location, numbers), and in the legacy format a view, is a storage."""
        identifier = self.stack.pop()
        kind, *rest = identifier
        if kind in ("module", b"module"):  # with its source, which torch would compare
            self.append(rest[0])
            return
        dtype, key, count = getattr(rest[0], "dtype", None), rest[1], rest[3]
        if not isinstance(dtype, torch.dtype) or not isinstance(key, str) or not _counts(count):
            raise pickle.UnpicklingError(f"a storage of {count!r} numbers of type {dtype}")
        size = count * dtype.itemsize
        if self.sizes is not None and self.sizes.get(f"data/{key}") != size:
            raise pickle.UnpicklingError(
                f"a storage of {size} bytes, of which the file has {self.sizes.get(f'data/{key}')}"
            )
        if self.sizes is None and key not in self.known_storages:
            self.known_storages.add(key)
            self.free -= size
            if self.free < 0:
                raise pickle.UnpicklingError("storages of more bytes than the file")
        self.append(self.persistent_load(identifier))

    dispatch: ClassVar[Any] = RestrictedUnpickler.dispatch | {pickle.BINPERSID[0]: load_binpersid}


def _attribute(owner: Any, name: Any) -> type[Inert]:
    """Replaces getattr, by which pickles refer to nested classes."""
    return placeholder(str(getattr(owner, "__module__", "")), str(name))


def _ordered_dict(items: Any = ()) -> OrderedDict[Any, Any]:
    """items: a list of pairs, of Python 2. It is emptied, since one list may be the argument of many calls."""
    found: OrderedDict[Any, Any] = update(OrderedDict(), items)
    if isinstance(items, list):
        items.clear()
    return found


def _size(lengths: Any) -> torch.Size:
    return torch.Size(lengths)


def _device(*arguments: Any) -> torch.device:
    return torch.device(*arguments)


def _counts(*values: Any) -> bool:
    """Whether all are whole numbers of 0 or more. A bool is none."""
    return all(type(value) is int and 0 <= value < 2**62 for value in values)


def _tensor(storage: Any, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *_: Any) -> Tensor:
    """A view of a storage. Raises UnpicklingError beyond its end, which torch would enlarge or read."""
    if not isinstance(storage, torch.storage.TypedStorage) or len(size) != len(stride):
        raise pickle.UnpicklingError(f"a tensor of shape {size!r} and strides {stride!r} in a {type(storage).__name__}")
    if not _counts(offset, *size, *stride):
        raise pickle.UnpicklingError(f"a tensor of shape {size!r}, strides {stride!r} and offset {offset!r}")
    count = storage._size()
    last = offset + sum((length - 1) * step for length, step in zip(size, stride, strict=True))
    if (0 not in size and last >= count) or math.prod(size) > max(count, _LARGEST_EXPANDED):
        raise pickle.UnpicklingError(f"a tensor of shape {tuple(size)} in a storage of {count} numbers")
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


def _parameter(data: Any, *_: Any) -> Any:
    return data


def _sparse(*_: Any) -> Tensor:
    """An empty sparse tensor, of which loading a state dict reports the layout; no model takes its values."""
    return torch.empty(0).to_sparse()


def _quantised(storage: Any, *_: Any) -> Any:
    """An empty quantised tensor, of which loading a state dict reports the dtype; no model takes its values."""
    dtype = getattr(storage, "dtype", None)
    if dtype not in (torch.qint8, torch.quint8, torch.qint32):
        return Inert()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.quantize_per_tensor(torch.empty(0), 1.0, 0, dtype)


def _of_a_type(rebuild: Callable[..., Any], kind: Any, arguments: Any, state: Any) -> Any:
    """A tensor of a subclass or with attributes, as a plain tensor."""
    return rebuild(*arguments) if rebuild in (_tensor, _tensor_v3) else Inert()


_ALLOWED: dict[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): _ordered_dict,
    ("torch", "Size"): _size,
    ("torch", "device"): _device,
    ("torch._utils", "_rebuild_tensor"): _tensor,
    ("torch._utils", "_rebuild_tensor_v2"): _tensor,
    ("torch._utils", "_rebuild_tensor_v3"): _tensor_v3,
    ("torch._utils", "_rebuild_sparse_tensor"): _sparse,
    ("torch._utils", "_rebuild_qtensor"): _quantised,
    ("torch", "UntypedStorage"): StorageType("ByteStorage"),  # in persistent ids, as its type
    ("torch.storage", "UntypedStorage"): StorageType("ByteStorage"),
    ("torch._utils", "_rebuild_parameter"): _parameter,
    ("torch._utils", "_rebuild_parameter_with_state"): _parameter,
    ("torch._tensor", "_rebuild_from_type_v2"): _of_a_type,
    ("builtins", "getattr"): _attribute,
}
_FUNCTIONS = tuple(found for found in _ALLOWED.values() if isinstance(found, types.FunctionType))
