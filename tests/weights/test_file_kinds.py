"""Files that are no checkpoint, or truncated ones: the error names the format, what is expected and the fix."""

import gzip
import io
import pickle
import random
import re
import tarfile
import warnings
import zipfile

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from densevit.errors import WeightsError
from densevit.weights.checkpoint_io import read
from densevit.weights.file_kinds import kind

STATE = {"weight": torch.arange(600.0).view(3, 200), "bias": torch.ones(3)}

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a2146\nsize 346334829\n"
PAGE = b"\n<!DOCTYPE html>\n<html><head><title>Google Drive - Quota exceeded</title></head><body>" + b"x" * 5000
DENIED = (
    b'<?xml version="1.0" encoding="UTF-8"?>\n<Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>'
)


def zipped(**files: bytes) -> bytes:
    memory = io.BytesIO()
    with zipfile.ZipFile(memory, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return memory.getvalue()


def tarred(*names: str) -> bytes:
    memory = io.BytesIO()
    with tarfile.open(fileobj=memory, mode="w") as archive:
        for name in names:
            archive.addfile(tarfile.TarInfo(name))
    return memory.getvalue()


CASES = {
    "empty": (b"", "w.pth", r"is an empty file, 0 bytes\. Expected a \.pth.*Download it again"),
    "pointer": (POINTER, "w.pth", r"git-LFS pointer to a file of 346,334,829 bytes.*git lfs pull"),
    "pointer of safetensors": (POINTER, "model.safetensors", r"git-LFS pointer.*git lfs pull"),
    "page": (PAGE, "w.pth", r"an HTML page \('Google Drive - Quota exceeded'\).*Download the file itself"),
    "page of safetensors": (PAGE, "w.safetensors", "an HTML page"),
    "page of npz": (PAGE, "w.npz", "an HTML page"),
    "page without a title": (b"<html><body>", "w.pth", r"an HTML page\. Expected"),
    "detectron2": (pickle.dumps({"model": {"w": np.ones(9)}}), "w.pkl", r"a bare pickle, not made.*section Pickles"),
    "zip": (zipped(**{"a/resnet.pth": b"x", "b": b""}), "w.pth", r"without data\.pkl; it holds a/resnet\.pth, b\."),
    "keras zip": (
        zipped(**{"config.json": b"{}", "model.weights.h5": b"x"}),
        "w.keras",
        r"without data\.pkl; it holds config\.json, model\.weights\.h5\. Expected a \.pth",
    ),
}
# Anything else gets one message: the size, the first bytes and what is expected.
OTHERS = {
    "denied": (DENIED, "w.pth"),
    "json": (b'{"error": "Repository not found"}', "w.bin"),
    "json list": (b'[{"message": "rate limited"}]', "w.bin"),
    "text": (b"Entry not found", "w.bin"),
    "keras": (b"\x89HDF\r\n\x1a\n" + bytes(100), "w.h5"),
    "onnx": (b"\x08\x07\x12\x07pytorch\x1a\x052.0.0", "w.onnx"),
    "npy": (b"\x93NUMPY\x01\x00", "w.npy"),
    "gzip": (gzip.compress(b"weights"), "w.pth"),
    "tar": (tarred("resnet/weights.pth"), "w.pth.tar"),
    "old tar": (tarred("sys_info", "pickle", "tensors", "storages"), "w.pth"),
    "empty zip": (b"PK\x05\x06" + bytes(18), "w.pth"),
    "noise": (b"\x00\x01\x02\x03garbage\xff\xfe\x00", "w.pth"),
}


@pytest.mark.parametrize("case", CASES)
def test_other_file_formats_are_recognised_from_their_bytes(case, tmp_path):
    content, name, message = CASES[case]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(WeightsError, match=rf"{name}: .*(?s:{message})") as error:
        read(tmp_path / name)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("case", OTHERS)
def test_an_unknown_format_is_reported_with_its_first_bytes(case, tmp_path):
    content, name = OTHERS[case]
    (tmp_path / name).write_bytes(content)
    message = f"{name}: is not a checkpoint: {len(content):,} bytes, the first are {content[:60]!r}. Expected a .pth, "
    with pytest.raises(WeightsError, match=re.escape(message) + r".* checkpoint\. Download it again\.$") as error:
        read(tmp_path / name)
    assert "\n" not in str(error.value)


def test_a_torchscript_archive_is_recognised(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.script(torch.nn.Linear(2, 2)).save(str(tmp_path / "w.pt"))
    with pytest.raises(WeightsError, match=r"a TorchScript archive.*torch\.jit\.load and save its state_dict"):
        read(tmp_path / "w.pt")


@pytest.mark.slow
def test_an_exported_program_is_recognised(tmp_path):
    torch.export.save(torch.export.export(torch.nn.Linear(2, 2), (torch.ones(1, 2),)), tmp_path / "w.pt2")
    with pytest.raises(WeightsError, match=r"w\.pt2: is a zip archive without data\.pkl; it holds .*Expected a \.pth"):
        read(tmp_path / "w.pt2")


def files(folder):
    torch.save(STATE, folder / "zip.pth")
    torch.save(STATE, folder / "legacy.pth", _use_new_zipfile_serialization=False)
    save_file(STATE, folder / "tensors.safetensors")
    np.savez(folder / "arrays.npz", **{name: value.numpy() for name, value in STATE.items()})
    return sorted(folder.iterdir())


def test_kind_is_detected_from_the_content(tmp_path):
    kinds = {"zip.pth": "torch", "legacy.pth": "torch", "tensors.safetensors": "safetensors", "arrays.npz": "npz"}
    for path in files(tmp_path):
        for suffix in (".bin", ".pth", ".safetensors", ".npz", ""):
            renamed = path.rename(tmp_path / f"w{suffix}")
            assert kind(renamed) == kinds[path.name]
            found = read(renamed).tensors
            assert found.keys() == STATE.keys() and all(torch.equal(found[name], STATE[name]) for name in STATE)
            renamed.rename(path)


@pytest.mark.filterwarnings("error")
def test_truncated_files_raise(tmp_path):
    for path in files(tmp_path):
        whole = path.read_bytes()
        for length in (1, 3, 8, 20, 100, 400, len(whole) // 2, len(whole) - 200, len(whole) - 1):
            path.write_bytes(whole[:length])
            with pytest.raises(WeightsError, match=rf"{path.name}: .*[dD]ownload it again"):
                read(path)


@pytest.mark.filterwarnings("error")
def test_corrupt_files_raise_or_have_other_values(tmp_path):
    dice = random.Random(0)
    for path in files(tmp_path):
        whole = path.read_bytes()
        for _ in range(60):
            content = bytearray(whole)
            for _ in range(dice.choice((1, 5, 50))):
                content[dice.randrange(len(content))] = dice.randrange(256)
            path.write_bytes(content)
            try:
                read(path)
            except WeightsError as error:
                assert str(error).startswith(str(path)) and len(str(error)) > len(str(path)) + 30
