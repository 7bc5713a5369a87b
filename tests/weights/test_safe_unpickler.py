"""Code in checkpoints is never run, whatever objects they contain, and tensors are still read."""

import argparse
import builtins
import collections
import contextlib
import copyreg
import functools
import os
import pathlib
import pickle
import re
import subprocess
import sys
import tarfile
import warnings
import zipfile
from pathlib import Path

import pytest
import torch
from torch import nn

from densevit.errors import WeightsError
from densevit.weights.checkpoint_io import read
from densevit.weights.safe_unpickler import Inert, load

STATE = {"a.weight": torch.arange(6.0).view(2, 3), "a.bias": torch.tensor([1.0, -1.0])}


def save(content, path: Path, legacy: bool = False, protocol: int = 2) -> Path:
    torch.save(content, path, _use_new_zipfile_serialization=not legacy, pickle_protocol=protocol)
    return path


def assert_state(tensors) -> None:
    assert tensors.keys() == STATE.keys()
    for name, value in STATE.items():
        assert torch.equal(tensors[name], value)


both = pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])


# ---- malicious files ----


class Call:
    """Calls a function with arguments when unpickled."""

    def __init__(self, function, *arguments, state=None) -> None:
        self.call = function, arguments
        self.state = state

    def __reduce__(self):
        return (*self.call, self.state) if self.state is not None else self.call


def touch(path) -> None:
    Path(path).touch()


ATTACKS = {
    "os.system": lambda file: Call(os.system, f"touch {file}"),  # of a module that no checkpoint needs
    "subprocess": lambda file: Call(subprocess.check_call, ["touch", str(file)]),
    "exec": lambda file: Call(exec, f"open({str(file)!r}, 'w')"),  # a builtin
    "getattr": lambda file: Call(getattr, pathlib.Path(file), "touch"),  # allowed, as another function
    "import": lambda file: Call(builtins.__import__, "antigravity"),
    "partial": lambda file: Call(functools.partial(touch, str(file))),
    "map": lambda file: Call(list, Call(map, touch, [str(file)])),
    "touch": lambda file: Call(touch, str(file)),  # of any module
    "state": lambda file: Call(argparse.Namespace, state={"f": Call(touch, str(file))}),
    "storage": lambda file: Call(torch.storage._load_from_bytes, pickle.dumps(Call(touch, str(file)))),  # a pickle
}
PLACES = {
    "alone": lambda trap: trap,
    "beside": lambda trap: {"args": trap, "state_dict": STATE},
    "nested": lambda trap: {"model": STATE, "meta": {"hooks": [({"a": trap},)]}},
}


@pytest.mark.filterwarnings("error")
@both
@pytest.mark.parametrize("attack", ATTACKS)
def test_malicious_files_are_inert_or_refused(attack, legacy, tmp_path):
    for place, put in PLACES.items():
        target = tmp_path / f"touched_{place}"
        path = save(put(ATTACKS[attack](target)), tmp_path / f"{place}.pth", legacy)
        try:
            tensors = read(path).tensors
        except WeightsError as error:
            assert (attack in ("os.system", "subprocess", "partial") or place == "alone") and str(path) in str(error), (
                place
            )
            assert attack != "os.system" or re.search(r"(posix|nt):system, .* may be malicious", str(error))
        else:
            assert_state(tensors)
            assert place != "alone"
        assert not target.exists() and "antigravity" not in sys.modules, place
    if attack not in ("getattr", "import", "partial", "map"):  # the test is meaningful: torch runs the last file
        with contextlib.suppress(Exception), warnings.catch_warnings():  # after its effect
            warnings.simplefilter("ignore")
            torch.load(path, weights_only=False)
        assert target.exists()


def with_pickle(path: Path, data: bytes, compression: int = zipfile.ZIP_STORED, content=STATE) -> Path:
    """A torch checkpoint whose pickle is these bytes."""
    with zipfile.ZipFile(save(content, path)) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, part in entries.items():
            archive.writestr(name, data if name.endswith("data.pkl") else part)
    return path


@pytest.mark.skipif(sys.platform == "win32", reason="limits of memory")
@pytest.mark.parametrize(
    "bomb", ["memo index", "tensor larger than its storage", "compressed", "length of a number", "length of bytes"]
)
def test_pickle_bombs_are_refused_without_allocating(bomb, tmp_path):
    import resource

    path = tmp_path / "weights.pth"
    if bomb == "memo index":
        with_pickle(path, b"\x80\x02}r\xff\xff\xff\x7f.")  # LONG_BINPUT 2^31 - 1: 16 GB of pointers in C
    elif bomb == "tensor larger than its storage":
        storage, rest = torch.zeros(1).storage(), (0, (2**40,), (1,), False, collections.OrderedDict())
        save({"a": Call(torch._utils._rebuild_tensor_v2, storage, *rest)}, path)
    elif bomb == "compressed":
        with_pickle(path, b"\x80\x02}." + bytes(2**28), zipfile.ZIP_DEFLATED)
    elif bomb == "length of a number":
        with_pickle(path, b"\x80\x02\x8b\xff\xff\xff\x7f\x01.")  # LONG4 of 2 GB
    else:
        with_pickle(path, b"\x80\x05\x96" + (2**33).to_bytes(8, "little") + b".")  # BYTEARRAY8
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + 2**30, hard))
    try:
        if bomb == "memo index":  # an index allocates nothing here; the result is an empty dict
            assert load(path) == {}
        else:
            with pytest.raises(WeightsError, match="weights.pth"):
                load(path)
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


# ---- single opcodes ----

HEADER = b"\x80\x02"


def text(value: str) -> bytes:
    return b"X" + len(value).to_bytes(4, "little") + value.encode()


def whole(value: int) -> bytes:
    return b"J" + value.to_bytes(4, "little", signed=True)


def in_global(module: str, name: str) -> bytes:
    return f"c{module}\n{name}\n".encode()


SLOT = b"(N}" + text("changed") + b"K\x01st"  # state: (None, {"changed": 1})
REACHED = {
    "a storage": in_global("torch", "FloatStorage"),
    "OrderedDict": in_global("collections", "OrderedDict"),
    "dtype": in_global("torch", "float32"),
    "rebuild": in_global("torch._utils", "_rebuild_tensor_v2"),
    "placeholder": in_global("argparse", "Namespace"),
    "attribute": in_global("builtins", "getattr") + b"(" + in_global("torch", "UntypedStorage") + text("x") + b"tR",
}
CHANGES = {
    "BUILD of slots": SLOT + b"b",
    "BUILD of a dict": b"}" + text("changed") + b"K\x01sb",
    "SETITEM": text("changed") + b"K\x01s",
    "SETITEMS": b"(" + text("changed") + b"K\x01u",
    "APPEND": text("changed") + b"a",
    "APPENDS": b"(" + text("changed") + b"e",
    "ADDITEMS": b"(" + text("changed") + b"\x90",
}


@pytest.mark.parametrize("reached", REACHED)
def test_no_object_of_the_process_is_changed(reached, tmp_path):
    from densevit.weights import restricted_pickle, safe_unpickler

    known = [torch.UntypedStorage, torch.FloatStorage, collections.OrderedDict, torch.Size, torch.device, torch.float32]
    known += [argparse.Namespace, torch.serialization.StorageType, torch._utils._rebuild_tensor_v2, Inert]
    known += [value for module in (restricted_pickle, safe_unpickler) for value in vars(module).values()]
    for name, change in CHANGES.items():
        path = with_pickle(tmp_path / "weights.pth", HEADER + REACHED[reached] + change + b".")
        with contextlib.suppress(WeightsError):
            load(path)
        assert not any(hasattr(value, "changed") for value in known), name


@pytest.mark.parametrize("reached", ["OrderedDict", "a storage", "dtype", "rebuild"])
def test_only_placeholders_and_functions_that_rebuild_are_called(reached, tmp_path):
    """With a size that would take all memory."""
    arguments = b"(" + whole(2**31 - 1) + b"t"
    calls = {
        "REDUCE": REACHED[reached] + arguments + b"R",
        "NEWOBJ": REACHED[reached] + arguments + b"\x81",
        "NEWOBJ_EX": REACHED[reached] + arguments + b"}\x92",
        "OBJ": b"(" + REACHED[reached] + whole(2**31 - 1) + b"o",
    }
    cause = "a call of a" if reached in ("a storage", "dtype") else ""
    for name, call in calls.items():
        with pytest.raises(WeightsError, match=f"not a complete checkpoint.*{cause}"):
            print(name, load(with_pickle(tmp_path / "weights.pth", HEADER + call + b".")))


def test_registered_extensions_and_the_source_of_modules_are_not_reached(tmp_path, monkeypatch):
    monkeypatch.setitem(copyreg._inverted_registry, 7, ("builtins", "print"))
    monkeypatch.setitem(copyreg._extension_cache, 7, print)
    with pytest.raises(WeightsError, match="the extension code 7"):
        load(with_pickle(tmp_path / "weights.pth", HEADER + b"\x82\x07."))
    # A legacy file names a class and its source; torch would write a patch if they differ.
    source = b"(" + text("module") + in_global("argparse", "Namespace") + text("a.py") + text("x = 1") + b"tQ"
    path = save({"a": torch.ones(1)}, tmp_path / "weights.pth", legacy=True)
    first = b"X\x01\x00\x00\x00a"
    path.write_bytes(path.read_bytes().replace(b"}q\x00" + first, b"}q\x00" + source + b"0" + first))
    compared = []
    monkeypatch.setattr(torch.serialization, "get_source_lines_and_file", compared.append)
    assert load(path)["a"].tolist() == [1] and not compared


def tensor(offset: int, size: bytes, stride: bytes, count: int = 4) -> bytes:
    storage = b"(" + text("storage") + in_global("torch", "FloatStorage") + text("0") + text("cpu") + whole(count)
    arguments = storage + b"tQ" + whole(offset) + size + stride + b"\x89}t"
    return HEADER + b"}" + text("b") + in_global("torch._utils", "_rebuild_tensor_v2") + b"(" + arguments + b"Rs."


def tuple_of(*numbers: int) -> bytes:
    return b"(" + b"".join(map(whole, numbers)) + b"t"


VIEWS = {
    "negative offset": tensor(-1, tuple_of(2), tuple_of(1)),
    "offset beyond the end": tensor(4, tuple_of(1), tuple_of(1)),
    "negative stride": tensor(3, tuple_of(4), tuple_of(-1)),
    "two negative sizes": tensor(0, tuple_of(-2, -2), tuple_of(2, 1)),
    "stride beyond the end": tensor(0, tuple_of(2), tuple_of(4)),
    "expanded to 4 TB": tensor(0, tuple_of(2**20, 2**20), tuple_of(0, 0)),
    "size that is no number": tensor(0, b"(F" + b"nan\nt", tuple_of(1)),
    "more sizes than strides": tensor(0, tuple_of(2, 2), tuple_of(1)),
    "storage larger than its part": tensor(0, tuple_of(1000), tuple_of(1), count=1000),
    "storage smaller than its part": tensor(0, tuple_of(1), tuple_of(1), count=1),
    "negative storage": tensor(0, tuple_of(1), tuple_of(1), count=-1),
}


@pytest.mark.parametrize("view", VIEWS)
def test_tensor_outside_of_its_storage_is_refused(view, tmp_path):
    path = with_pickle(tmp_path / "weights.pth", VIEWS[view], content={"a": torch.arange(4.0)})
    facts = r"weights\.pth: not a complete checkpoint.*(a tensor of shape|a storage of)"
    with pytest.raises(WeightsError, match=facts):
        load(path)


def test_legacy_storage_larger_than_the_file_is_refused(tmp_path):
    path = save({"a": torch.arange(4.0)}, tmp_path / "weights.pth", legacy=True)
    path.write_bytes(path.read_bytes().replace(b"K\x04N", whole(2**31 - 1) + b"N", 1))
    with pytest.raises(WeightsError, match="storages of more bytes than the file"):
        load(path)


@pytest.mark.parametrize(
    "key",
    [
        b"N" + b"\x85" * 20_000,  # ((((None,),),), ...): its hash would exceed the stack of C
        b"N" + b"2\x86" * 60,  # ((x, x), (x, x)), ...: 2^60 values
    ],
    ids=["deep", "doubled"],
)
def test_keys_that_take_too_long_to_hash_are_refused(key, tmp_path):
    containers = {
        "dict": b"(" + key + b"Nd",
        "item": b"}" + key + b"Ns",
        "set": b"\x8f(" + key + b"\x90",
        "frozenset": b"(" + key + b"\x91",
        "ordered dict": in_global("collections", "OrderedDict") + b"(]]" + key + b"aNaat" + b"R",
    }
    for name, data in containers.items():
        with pytest.raises(WeightsError, match="a key of over 1000 values"):
            print(name, load(with_pickle(tmp_path / "weights.pth", HEADER + data + b".")))


# ---- archives ----


def renamed(path: Path, names: list[tuple[str, str]]) -> Path:
    """The zip archive with its files under other names; a file may occur twice."""
    with zipfile.ZipFile(path) as archive:
        entries = [(new, archive.read(old)) for old, new in names]
    with warnings.catch_warnings(), zipfile.ZipFile(path, "w") as archive:
        warnings.simplefilter("ignore")  # of a name that occurs twice
        for name, content in entries:
            archive.writestr(name, content)
    return path


def names_of(path: Path) -> list[str]:
    with zipfile.ZipFile(path) as archive:
        return archive.namelist()


@pytest.mark.parametrize("name", ["constants.pkl", "CONSTANTS.PKL"])
def test_torchscript_is_recognised_also_by_a_name_in_capitals(name, tmp_path):
    """torch finds `constants.pkl` without case, and would run the program."""
    path = tmp_path / "weights.pth"
    torch.jit.script(nn.Linear(2, 2)).save(str(path))
    renamed(path, [(one, one.replace("constants.pkl", name)) for one in names_of(path)])
    for reader in (load, read):
        with pytest.raises(WeightsError, match="is a TorchScript archive"):
            reader(path)


@pytest.mark.parametrize("name", ["weights/data/0", "weights/DATA/0"])
def test_two_parts_of_one_name_are_refused(name, tmp_path):
    """Which one torch reads is not known."""
    path = save({"a": torch.ones(4)}, tmp_path / "weights.pth")
    renamed(path, [*((one, one) for one in names_of(path)), ("weights/data/0", name)])
    with pytest.raises(WeightsError, match="has two parts of one name"):
        load(path)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no FIFOs")
@pytest.mark.parametrize("kind", [tarfile.FIFOTYPE, tarfile.SYMTYPE])
def test_tar_archive_is_refused_and_not_extracted(kind, tmp_path, monkeypatch):
    """Of torch before 0.2, which would extract `storages` and open it: a FIFO has no end."""
    magic = "\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.\x80\x02M\xe9\x03."  # the file's kind is recognised by it
    path = tmp_path / "weights.pth"
    with tarfile.open(path, "w", encoding="latin1", format=tarfile.GNU_FORMAT) as archive:
        for name in (magic, "storages"):
            member = tarfile.TarInfo(name)
            member.type, member.linkname = (kind if name == "storages" else tarfile.REGTYPE), "/dev/zero"
            archive.addfile(member)
    monkeypatch.setattr(tarfile.TarFile, "extract", lambda *given, **options: pytest.fail("extracted"))
    with pytest.raises(WeightsError, match=r"weights\.pth: is a tar archive, of torch before 0\.2"):
        read(path)
