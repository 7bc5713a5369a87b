"""What `torch.save` wrote, read as tensors and plain values; whatever else a checkpoint carries stays inert.

Torch's weights-only loader calls nothing but what it takes for harmless, and refuses a file that names anything else:
the `argparse.Namespace` of a training script, a logger's buffer, a numpy scalar. Here each such name stands for an
empty class, so that the file is read and nothing of it is run.
"""

import pickle
import pickletools
import re
import warnings
import zipfile
from _compat_pickle import IMPORT_MAPPING, NAME_MAPPING
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import torch

from densevit.errors import WeightsError

_NEVER = (
    "os",
    "posix",
    "nt",
    "sys",
    "subprocess",
)  # modules that no checkpoint needs; torch never lets most of them in
_LEGACY = (
    5  # pickles at the head of a file of torch before 1.6: a number, a version, the system, the object, its storages
)


class Inert:
    """Stands where a checkpoint has an object: it takes what unpickling hands it, and keeps and does nothing.

    Each name has a subclass of its own, which goes by that name. gives: what its call gives in place of an object: a
    list or a dict, where the file goes on to fill it, or another such class, where it calls that in turn.
    """

    gives: Callable[[], Any] | None = None

    def __new__(cls, *arguments: Any) -> Any:
        return object.__new__(cls) if cls.gives is None else cls.gives()

    def __init__(self, *arguments: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        pass


def load(path: Path) -> Any:
    """The content of a torch checkpoint, zip or legacy, on the CPU; objects are `Inert`.

    Raises WeightsError where it is not whole, or cannot be read without running something of it.
    """
    try:
        uses, protocol = _scan_zip(path) if zipfile.is_zipfile(path) else _scan_legacy(path)
    except Exception as error:  # spoilt bytes raise anything: ValueError, IndexError, UnicodeDecodeError, ...
        raise WeightsError(_spoilt(path, error)) from error
    never = sorted(name for name in uses if re.split("[.:]", name)[0] in _NEVER)
    if never:
        raise WeightsError(
            f"{path}: names {', '.join(never)}, which no checkpoint needs: the file may be malicious. Nothing of it "
            "was run. Take the weights from a source that you trust, best as .safetensors."
        )
    stand_ins: list[Any] = [made for name, acts_as in uses.items() for made in _stand_ins(name, acts_as)]
    try:
        with path.open("rb") as file, warnings.catch_warnings(), torch.serialization.safe_globals(stand_ins):
            warnings.simplefilter("ignore")
            # latin1: bytes of Python 2, which no Python 3 writes, would else have to be UTF-8.
            return torch.load(
                file if path.suffix == ".safetensors" else path,
                map_location="cpu",
                weights_only=True,
                encoding="latin1",
            )
    except (RuntimeError, EOFError, OSError) as error:
        if "weights_only" not in str(error):
            raise WeightsError(_spoilt(path, error)) from error
        raise WeightsError(_unsafe(path, error, uses, protocol)) from error
    except Exception as error:
        raise WeightsError(_unsafe(path, error, uses, protocol)) from error


def _stand_ins(name: str, acts_as: type | None) -> list[type]:
    """The class that goes by a name, and the one that it gives where it gives a class."""
    module, _, own = name.partition(":")
    if acts_as is type:
        given = _stand_ins(f"{name}()", None)
        return [_named(module, own, lambda: given[0]), *given]
    return [_named(module, own, acts_as)]


def _named(module: str, name: str, gives: Callable[[], Any] | None) -> type:
    entries = {"__module__": module, "__qualname__": name, "gives": gives and staticmethod(gives)}
    return type(name, (Inert,), entries)


# ---- which names a file asks for, and what it does with them: its instructions are listed, none is followed ----


def _scan_zip(path: Path) -> tuple[dict[str, type | None], int]:
    with zipfile.ZipFile(path) as archive:
        name = next(n for n in archive.namelist() if n.split("/")[-1] == "data.pkl")
        with archive.open(name) as file:
            return _scan(file)


def _scan_legacy(path: Path) -> tuple[dict[str, type | None], int]:
    uses: dict[str, type | None] = {}
    protocol = 0
    with path.open("rb") as file:
        for _ in range(_LEGACY):
            own, used = _scan(file)
            uses, protocol = uses | own, max(protocol, used)
    return uses, protocol


def _scan(file: IO[bytes]) -> tuple[dict[str, type | None], int]:
    """The names in a pickle, MODULE:NAME, each with what an object of that name has to act as; and its protocol."""
    uses: dict[str, type | None] = {}
    # What lies on the stack: (name, False) for a name, (name, True) for what was made of it, None for all else.
    stack: list[tuple[str, bool] | None] = []
    marks: list[int] = []
    memory: dict[Any, tuple[str, bool] | None] = {}
    protocol = 0

    def use(acts_as: type) -> None:
        if stack[-1] is not None:
            uses[stack[-1][0]] = acts_as

    def make() -> None:
        made = stack[-1]
        if made is not None:
            if made[1]:
                use(type)
            stack[-1] = (made[0], True)

    for operation, argument, _ in pickletools.genops(file):
        code, taken = operation.name, operation.stack_before
        if code == "PROTO":
            protocol = int(argument)  # type: ignore[arg-type]  # of this one it is a number
        elif code == "MARK":
            marks.append(len(stack))
        elif code == "GLOBAL":
            name = str(argument).replace(" ", ":", 1)
            uses.setdefault(name, None)
            stack.append((name, False))
        elif code.endswith("GET"):
            stack.append(memory[argument])
        elif code.endswith("PUT") or code == "MEMOIZE":
            memory[len(memory) if argument is None else argument] = stack[-1]
        else:
            if pickletools.markobject in taken:
                del stack[marks.pop() :]
                taken = taken[: taken.index(pickletools.markobject)]
            kept = 1 if code in ("REDUCE", "NEWOBJ", "BUILD", "APPEND", "APPENDS", "SETITEM", "SETITEMS") else 0
            if len(taken) > kept:
                del stack[len(stack) - len(taken) + kept :]
            if code in ("REDUCE", "NEWOBJ"):
                make()
            elif code.startswith("APPEND"):
                use(list)
            elif code.startswith("SETITEM"):
                use(OrderedDict)  # the one dict that takes a state besides
            elif not kept:
                stack.extend([None] * len(operation.stack_after))
    return uses | _in_python_3(uses), protocol


def _in_python_3(uses: dict[str, type | None]) -> dict[str, type | None]:
    """The names as Python 3 has them: `__builtin__:eval` is `builtins:eval`."""
    renamed = {}
    for name, acts_as in uses.items():
        module, _, own = name.partition(":")
        module, own = NAME_MAPPING.get((module, own), (IMPORT_MAPPING.get(module, module), own))
        renamed[f"{module}:{own}"] = acts_as
    return renamed


# ---- what is said ----


def _spoilt(path: Path, error: Exception) -> str:
    return (
        f"{path}: not a whole checkpoint: {path.stat().st_size:,} bytes, and reading them ends with: {reason(error)}. "
        "Copy or download it again."
    )


def _unsafe(path: Path, error: Exception, uses: dict[str, type | None], protocol: int) -> str:
    why = reason(error)
    if any(name.startswith("torch.nn.modules.") for name in uses):
        why = "it is a whole pickled model, not the model's state_dict"
    elif protocol > 2:
        why = f"it is written with pickle protocol {protocol}, and torch's safe loader knows 2 ({why})"
    return (
        f"{path}: not a checkpoint that can be read safely, as tensors only: {why}. In the project that it comes from, "
        "save the tensors alone: torch.save(model.state_dict(), 'weights.pth')."
    )


def reason(error: Exception) -> str:
    """One line of what torch's loader says."""
    text = str(error).strip()
    if isinstance(error, pickle.UnpicklingError) and (found := re.search(r"WeightsUnpickler error: (.*)", text)):
        text = found[1]
    return (text.splitlines() or [type(error).__name__])[0].strip().rstrip(".")
