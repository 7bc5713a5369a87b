"""Code in checkpoints is never run, whatever objects they contain, and tensors are still read."""

import argparse
import builtins
import collections
import contextlib
import datetime
import enum
import functools
import os
import pathlib
import pickle
import subprocess
import sys
import tarfile
import types
import warnings
import zipfile
from pathlib import Path

import numpy as np
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
    "os.system": lambda file: Call(os.system, f"touch {file}"),
    "os.open": lambda file: Call(os.open, str(file), os.O_CREAT),
    "subprocess": lambda file: Call(subprocess.check_call, ["touch", str(file)]),
    "eval": lambda file: Call(eval, f"open({str(file)!r}, 'w')"),
    "exec": lambda file: Call(exec, f"open({str(file)!r}, 'w')"),
    "open": lambda file: Call(open, str(file), "w"),
    "getattr": lambda file: Call(getattr, pathlib.Path(file), "touch"),
    "import": lambda file: Call(builtins.__import__, "antigravity"),
    "partial": lambda file: Call(functools.partial(touch, str(file))),
    "map": lambda file: Call(list, Call(map, touch, [str(file)])),
    "touch": lambda file: Call(touch, str(file)),
    "state": lambda file: Call(argparse.Namespace, state={"f": Call(touch, str(file))}),
    "storage": lambda file: Call(torch.storage._load_from_bytes, pickle.dumps(Call(touch, str(file)))),
}
PLACES = {
    "alone": lambda trap: trap,
    "beside": lambda trap: {"args": trap, "state_dict": STATE},
    "within": lambda trap: {"state_dict": collections.OrderedDict({"x": trap, **STATE})},
    "nested": lambda trap: {"model": STATE, "meta": {"hooks": [({"a": trap},)]}},
}


@pytest.mark.filterwarnings("error")
@both
@pytest.mark.parametrize("attack", ATTACKS)
def test_malicious_files_are_inert_or_refused(attack, legacy, tmp_path):
    for place, put in PLACES.items():
        target = tmp_path / f"touched {place}"
        path = save(put(ATTACKS[attack](target)), tmp_path / f"{place}.pth", legacy)
        try:
            tensors = read(path).tensors
        except WeightsError as error:
            refused = attack in ("os.system", "os.open", "subprocess", "partial") or place == "alone"
            assert refused and str(path) in str(error), place
        else:
            assert_state(tensors)
            assert place != "alone"
        assert not target.exists(), place
        assert "antigravity" not in sys.modules, place


@both
def test_malicious_files_run_when_unpickled(legacy, tmp_path):
    """Checks that the test above is meaningful."""
    for attack in ATTACKS.keys() - {"getattr", "import", "partial", "map"}:
        target = tmp_path / attack
        path = save(PLACES["beside"](ATTACKS[attack](target)), tmp_path / f"{attack}.pth", legacy)
        with contextlib.suppress(Exception):  # after its effect
            torch.load(path, weights_only=False)
        assert target.exists(), attack


def test_bare_pickle_is_refused_and_not_run(tmp_path):
    for protocol in range(2, 6):
        path = tmp_path / "weights.pth"
        path.write_bytes(pickle.dumps({"model": STATE, "x": Call(touch, str(tmp_path / "touched"))}, protocol))
        with pytest.raises(WeightsError, match=r"weights\.pth: is a bare pickle, not made by torch\.save"):
            read(path)
    assert not (tmp_path / "touched").exists()


def test_system_calls_are_refused_by_name(tmp_path):
    path = save({"state_dict": STATE, "x": Call(os.system, "true")}, tmp_path / "weights.pth")
    with pytest.raises(
        WeightsError, match=r"refers to (posix|nt):system, .* may be malicious\. None of its code was run"
    ):
        read(path)


def with_pickle(path: Path, data: bytes, compression: int = zipfile.ZIP_STORED) -> Path:
    """A torch checkpoint whose pickle is these bytes."""
    with zipfile.ZipFile(save(STATE, path)) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in entries.items():
            archive.writestr(name, data if name.endswith("data.pkl") else content)
    return path


@pytest.mark.skipif(sys.platform == "win32", reason="limits of memory")
@pytest.mark.parametrize(
    "bomb", ["memo index", "tensor larger than its storage", "compressed", "length of a number", "TorchScript"]
)
def test_pickle_bombs_are_refused_without_allocating(bomb, tmp_path):
    import resource

    path = tmp_path / "weights.pth"
    if bomb == "memo index":
        with_pickle(path, b"\x80\x02}r\xff\xff\xff\x7f.")  # LONG_BINPUT 2^31 - 1: 16 GB of pointers in C
    elif bomb == "tensor larger than its storage":
        small = torch.zeros(1)
        call = Call(
            torch._utils._rebuild_tensor_v2, small.storage(), 0, (2**40,), (1,), False, collections.OrderedDict()
        )
        save({"a": call}, path)
    elif bomb == "compressed":
        with_pickle(path, b"\x80\x02}." + bytes(2**28), zipfile.ZIP_DEFLATED)
    elif bomb == "length of a number":
        with_pickle(path, b"\x80\x02\x8b\xff\xff\xff\x7f\x01.")  # LONG4 of 2 GB
    else:
        torch.jit.script(nn.Linear(2, 2)).save(str(path))
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
    "UntypedStorage": in_global("torch", "UntypedStorage"),
    "a typed storage": in_global("torch", "FloatStorage"),
    "OrderedDict": in_global("collections", "OrderedDict"),
    "Size": in_global("torch", "Size"),
    "device": in_global("torch", "device"),
    "dtype": in_global("torch", "float32"),
    "rebuild": in_global("torch._utils", "_rebuild_tensor_v2"),
    "getattr": in_global("builtins", "getattr"),
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


@pytest.mark.parametrize("reached", sorted(REACHED.keys() - {"placeholder", "attribute", "device"}))
def test_only_placeholders_and_functions_that_rebuild_are_called(reached, tmp_path):
    """With a size that would take all memory."""
    arguments = b"(" + whole(2**31 - 1) + b"t"
    calls = {
        "REDUCE": REACHED[reached] + arguments + b"R",
        "NEWOBJ": REACHED[reached] + arguments + b"\x81",
        "NEWOBJ_EX": REACHED[reached] + arguments + b"}\x92",
        "OBJ": b"(" + REACHED[reached] + whole(2**31 - 1) + b"o",
    }
    for name, call in calls.items():
        with pytest.raises(WeightsError, match="not a complete checkpoint"):
            print(name, load(with_pickle(tmp_path / "weights.pth", HEADER + call + b".")))


def test_registered_extensions_are_not_reached(tmp_path, monkeypatch):
    import copyreg

    monkeypatch.setitem(copyreg._inverted_registry, 7, ("builtins", "print"))
    monkeypatch.setitem(copyreg._extension_cache, 7, print)
    path = with_pickle(tmp_path / "weights.pth", HEADER + b"\x82\x07.")
    with pytest.raises(WeightsError, match="the extension code 7"):
        load(path)


def test_modules_source_is_not_compared(tmp_path, monkeypatch):
    """A legacy file names a class and its source; torch would write a patch if they differ."""
    source = b"(" + text("module") + in_global("argparse", "Namespace") + text("a.py") + text("x = 1") + b"tQ"
    path = save({"a": torch.ones(1)}, tmp_path / "weights.pth", legacy=True)
    path.write_bytes(
        path.read_bytes().replace(b"}q\x00X\x01\x00\x00\x00a", b"}q\x00" + source + b"0X\x01\x00\x00\x00a")
    )
    compared = []
    monkeypatch.setattr(torch.serialization, "get_source_lines_and_file", compared.append)
    assert load(path)["a"].tolist() == [1] and not compared


def tensor(offset: int, size: bytes, stride: bytes, count: int = 4) -> bytes:
    storage = (
        b"(" + text("storage") + in_global("torch", "FloatStorage") + text("0") + text("cpu") + whole(count) + b"tQ"
    )
    rebuild = in_global("torch._utils", "_rebuild_tensor_v2")
    arguments = storage + whole(offset) + size + stride + b"\x89}t"
    return HEADER + b"}" + text("b") + rebuild + b"(" + arguments + b"Rs."


def tuple_of(*numbers: int) -> bytes:
    return b"(" + b"".join(map(whole, numbers)) + b"t"


NAN = b"(F" + b"nan\nt"
VIEWS = {
    "negative offset": tensor(-1, tuple_of(2), tuple_of(1)),
    "offset beyond the end": tensor(4, tuple_of(1), tuple_of(1)),
    "negative stride": tensor(3, tuple_of(4), tuple_of(-1)),
    "negative size": tensor(0, tuple_of(-2), tuple_of(1)),
    "two negative sizes": tensor(0, tuple_of(-2, -2), tuple_of(2, 1)),
    "stride beyond the end": tensor(0, tuple_of(2), tuple_of(4)),
    "sizes that overflow": tensor(0, tuple_of(*[2**31 - 1] * 4), tuple_of(0, 0, 0, 0)),
    "expanded to 4 TB": tensor(0, tuple_of(2**20, 2**20), tuple_of(0, 0)),
    "size that is no number": tensor(0, NAN, tuple_of(1)),
    "stride that is no number": tensor(0, tuple_of(4), NAN),
    "more sizes than strides": tensor(0, tuple_of(2, 2), tuple_of(1)),
    "storage larger than its part": tensor(0, tuple_of(1000), tuple_of(1), count=1000),
    "storage smaller than its part": tensor(0, tuple_of(1), tuple_of(1), count=1),
    "negative storage": tensor(0, tuple_of(1), tuple_of(1), count=-1),
}


@pytest.mark.parametrize("view", VIEWS)
def test_tensor_outside_of_its_storage_is_refused(view, tmp_path):
    path = tmp_path / "weights.pth"
    save({"a": torch.arange(4.0)}, path)
    with zipfile.ZipFile(path) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in entries.items():
            archive.writestr(name, VIEWS[view] if name.endswith("data.pkl") else content)
    with pytest.raises(
        WeightsError, match=r"weights\.pth: not a complete checkpoint.*(a tensor of shape|a storage of)"
    ):
        load(path)


def test_legacy_storage_larger_than_the_file_is_refused(tmp_path):
    path = save({"a": torch.arange(4.0)}, tmp_path / "weights.pth", legacy=True)
    path.write_bytes(path.read_bytes().replace(b"K\x04N", whole(2**31 - 1) + b"N", 1))
    with pytest.raises(WeightsError, match="storages of more bytes than the file"):
        load(path)


@pytest.mark.parametrize(
    "key",
    [
        b"N" + b"\x85" * 250_000,  # ((((None,),),), ...): its hash would exceed the stack of C
        b"N" + b"2\x86" * 60,  # ((x, x), (x, x)), ...: 2^60 values
        b"(" + b"N" * 10_000 + b"t",
    ],
    ids=["deep", "doubled", "long"],
)
@pytest.mark.parametrize("container", ["dict", "item", "set", "frozenset", "ordered dict"])
def test_keys_that_take_too_long_to_hash_are_refused(key, container, tmp_path):
    data = {
        "dict": b"(" + key + b"Nd",
        "item": b"}" + key + b"Ns",
        "set": b"\x8f(" + key + b"\x90",
        "frozenset": b"(" + key + b"\x91",
        "ordered dict": in_global("collections", "OrderedDict") + b"(]]" + key + b"aNaat" + b"R",
    }
    with pytest.raises(WeightsError, match="a key of over 1000 values"):
        load(with_pickle(tmp_path / "weights.pth", HEADER + data[container] + b"."))


def test_length_of_bytes_is_not_allocated_before_they_are_read(tmp_path):
    import resource

    path = with_pickle(tmp_path / "weights.pth", b"\x80\x05\x96" + (2**33).to_bytes(8, "little") + b".")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with contextlib.suppress(WeightsError):
        load(path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 2**20  # kB


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


def test_torchscript_is_recognised_by_a_name_in_capitals(tmp_path):
    """torch finds `constants.pkl` without case, and would run the program."""
    path = tmp_path / "weights.pth"
    torch.jit.script(nn.Linear(2, 2)).save(str(path))
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
    renamed(path, [(name, name.replace("constants.pkl", "CONSTANTS.PKL")) for name in names])
    with pytest.raises(WeightsError, match="is a TorchScript archive"):
        load(path)


@pytest.mark.parametrize("name", ["weights/data/0", "weights/DATA/0"])
def test_two_parts_of_one_name_are_refused(name, tmp_path):
    """Which one torch reads is not known."""
    path = save({"a": torch.ones(4)}, tmp_path / "weights.pth")
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
    renamed(path, [*((one, one) for one in names), ("weights/data/0", name)])
    with pytest.raises(WeightsError, match="has two parts of one name"):
        load(path)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no FIFOs")
@pytest.mark.parametrize("kind", [tarfile.FIFOTYPE, tarfile.CHRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.REGTYPE])
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


def test_safe_globals_are_restored(tmp_path):
    path = save({"state_dict": STATE, "args": argparse.Namespace(lr=1)}, tmp_path / "weights.pth")
    before = torch.serialization.get_safe_globals()
    load(path)
    assert set(torch.serialization.get_safe_globals()) == set(before)
    with pytest.raises(pickle.UnpicklingError):
        torch.load(path, weights_only=True)


# ---- objects in training checkpoints ----


class CfgNode(dict):
    """As in yacs, mmcv and easydict: a dict with attributes."""

    def __init__(self, content) -> None:
        super().__init__(content)
        self.__dict__["_immutable"] = True


class HistoryBuffer:
    """As in mmengine: arrays, and its own methods by name."""

    def __init__(self) -> None:
        self._log_history, self._count_history = np.arange(3.0), np.array([], dtype=np.int64)
        self._statistics_methods = {"mean": self.mean}

    def mean(self) -> float:
        return 0.0


class Phase(enum.Enum):
    train = 1


class Outer:
    class Inner:
        """Reached through `getattr(Outer, "Inner")` before protocol 4."""

        def __init__(self) -> None:
            self.x = 1


def defaults():
    found = collections.defaultdict(list)
    found["a"].append(1)
    return found


OBJECTS = {
    "namespace": lambda: argparse.Namespace(lr=1e-4, dataset="coco", nested=argparse.Namespace(a=[1])),
    "history buffer": lambda: {"loss": HistoryBuffer()},
    "numpy scalars": lambda: {"best": np.float64(0.5), "epoch": np.int64(3), "f": np.float32(1.0), "b": np.bool_(True)},
    "numpy array": lambda: np.random.rand(3, 4),
    "numpy random state": lambda: np.random.get_state(),
    "numpy generator": lambda: np.random.default_rng(0),
    "structured array": lambda: np.zeros(2, dtype=[("a", "f4"), ("b", "i8")]),
    "path": lambda: pathlib.Path("/data/coco"),
    "datetime": lambda: [datetime.datetime(2020, 1, 2), datetime.timedelta(1), datetime.date(2020, 1, 2)],
    "config": lambda: CfgNode({"MODEL": CfgNode({"NAME": "vit", "DEPTH": 12})}),
    "deque": lambda: collections.deque([1, 2, 3], maxlen=20),
    "default dict": defaults,
    "counter": lambda: collections.Counter("abca"),
    "enum": lambda: Phase.train,
    "inner class": lambda: [Outer.Inner(), Outer.Inner()],
    "functions": lambda: {"f": touch, "g": functools.partial(touch, 1), "h": nn.functional.gelu},
    "simple namespace": lambda: types.SimpleNamespace(a=1),
    "exception": lambda: ValueError("diverged"),
    "sets": lambda: {"a": {1, 2}, "b": frozenset({3}), "c": slice(1, 2), "d": range(3), "e": 1j, "f": b"bytes"},
    "torch's version": lambda: torch.__version__,
    "device and dtype": lambda: [torch.device("cpu"), torch.float16, torch.Size([1, 2])],
    "generator state": lambda: torch.get_rng_state(),
}


@pytest.mark.filterwarnings("error")
@both
@pytest.mark.parametrize("thing", OBJECTS)
def test_checkpoints_with_other_objects_are_read(thing, legacy, tmp_path):
    content = {"epoch": 3, "extra": OBJECTS[thing](), "state_dict": STATE, "after": [OBJECTS[thing](), "text"]}
    assert_state(read(save(content, tmp_path / "weights.pth", legacy)).tensors)


def test_pickled_module_beside_tensors_is_inert(tmp_path):
    """In a zip file. A legacy file also contains the module's source, which torch's loader refuses: see below."""
    content = {"model": nn.Sequential(nn.Linear(2, 2)), "class": nn.Linear, "state_dict": STATE}
    assert_state(read(save(content, tmp_path / "weights.pth")).tensors)


def test_objects_are_empty_and_plain_values_preserved(tmp_path):
    content = {
        "args": argparse.Namespace(lr=1),
        "epoch": 3,
        "names": ["a", "b"],
        "score": 0.5,
        "config": CfgNode({"a": 1}),
    }
    found = load(save(content, tmp_path / "weights.pth"))
    assert isinstance(found["args"], Inert) and vars(found["args"]) == {}
    assert not isinstance(found["args"], argparse.Namespace)
    assert (found["epoch"], found["names"], found["score"]) == (3, ["a", "b"], 0.5)
    assert isinstance(found["config"], Inert) and vars(found["config"]) == {} and dict(found["config"]) == {"a": 1}


@both
def test_tensors_inside_a_dict_of_another_class_are_read(legacy, tmp_path):
    assert_state(read(save({"model": CfgNode(STATE)}, tmp_path / "weights.pth", legacy)).tensors)


def test_torch_types_are_read(tmp_path):
    state = {
        "parameter": nn.Parameter(torch.ones(2)),
        "half": torch.ones(2, dtype=torch.float16),
        "bfloat16": torch.ones(2, dtype=torch.bfloat16),
        "count": torch.tensor(7),
        "transposed": torch.arange(6).view(2, 3).T,
        "strided": torch.arange(10.0)[2::3],
        "empty": torch.empty(0, 3),
        "mask": torch.tensor([True, False]),
    }
    for legacy in (False, True):
        tensors = read(save(state, tmp_path / "weights.pth", legacy)).tensors
        for name, value in state.items():
            assert torch.equal(tensors[name], value.detach()) and tensors[name].dtype == value.dtype, name
            assert type(tensors[name]) is torch.Tensor and not tensors[name].requires_grad


def test_python_2_checkpoint_with_byte_strings_is_read(tmp_path):
    """`SHORT_BINSTRING`, which Python 3 does not write: in keys, and in a numpy scalar with a byte that is no text."""
    path = save({"weights": STATE["a.bias"]}, tmp_path / "weights.pth", legacy=True)
    text = b"X\x07\x00\x00\x00weights"
    scalar = (
        b"U\x04best"
        + b"cnumpy.core.multiarray\nscalar\n(cnumpy\ndtype\n(U\x02f8K\x00K\x01tRU\x08\x00\x00\xff\xfe\x00\x00\xe0?tR"
    )
    content = path.read_bytes()
    setitem = content.index(b"s.", content.index(text))
    content = content[:setitem] + b"s" + scalar + content[setitem:]
    path.write_bytes(content.replace(text, b"U\x07weights"))
    assert read(path).tensors["weights"].tolist() == [1, -1]


# ---- unsafe files ----


@both
def test_pickled_model_is_reported(legacy, tmp_path):
    found = r"no state dict, but .*a pickled model, not its state_dict.*torch\.nn\.modules\.container\.Sequential"
    with pytest.raises(WeightsError, match=found + r".*torch\.save\(model\.state_dict\(\)"):
        read(save(nn.Sequential(nn.Linear(2, 2)), tmp_path / "weights.pth", legacy))


@both
@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_every_pickle_protocol_is_read(legacy, protocol, tmp_path):
    content = {"args": argparse.Namespace(lr=1), "state_dict": STATE, "inner": Outer.Inner()}
    assert_state(read(save(content, tmp_path / "weights.pth", legacy, protocol)).tensors)


def test_self_referencing_checkpoint_is_read(tmp_path):
    content: dict = {"a": 1}
    content["model"] = content
    with pytest.raises(WeightsError, match="no state dict, but"):
        read(save(content, tmp_path / "weights.pth"))
