"""Files that are no checkpoint, or truncated ones: the error names the format, what is expected and the fix."""

import gzip
import io
import pickle
import random
import re
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


REFUSED = {  # content, file name, facts
    "empty": (b"", "w.pth", r"is an empty file, 0 bytes\. Expected a \.pth.*Download it again"),
    "pointer": (POINTER, "w.safetensors", r"git-LFS pointer to a file of 346,334,829 bytes.*git lfs pull"),
    "page": (PAGE, "w.npz", r"an HTML page \('Google Drive - Quota exceeded'\).*Download the file itself"),
    "page without a title": (b"<html><body>", "w.pth", r"an HTML page\. Expected"),
    "detectron2": (pickle.dumps({"model": {"w": np.ones(9)}}), "w.pkl", r"a bare pickle, not made.*section Pickles"),
    "zip": (zipped(**{"a/resnet.pth": b"x", "b": b""}), "w.pth", r"without data\.pkl; it holds a/resnet\.pth, b\."),
}
# Anything else gets one message: the size, the first bytes and what is expected.
OTHERS = {
    "denied": (DENIED, "w.pth"),
    "text": (b"Entry not found", "w.bin"),
    "gzip": (gzip.compress(b"weights"), "w.pth"),
    "empty zip": (b"PK\x05\x06" + bytes(18), "w.pth"),
    "noise": (b"\x00\x01\x02\x03garbage\xff\xfe\x00", "w.pth"),
}
for _case, (_content, _name) in OTHERS.items():
    _facts = f"is not a checkpoint: {len(_content):,} bytes, the first are {_content[:60]!r}. Expected a .pth, "
    REFUSED[_case] = (_content, _name, re.escape(_facts))


@pytest.mark.parametrize("case", REFUSED)
def test_files_of_other_formats_are_refused_by_their_bytes(case, tmp_path):
    content, name, facts = REFUSED[case]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(WeightsError, match=rf"{name}: .*(?s:{facts})") as error:
        read(tmp_path / name)
    assert "\n" not in str(error.value)


def files(folder):
    torch.save(STATE, folder / "zip.pth")
    torch.save(STATE, folder / "legacy.pth", _use_new_zipfile_serialization=False)
    save_file(STATE, folder / "tensors.safetensors")
    np.savez(folder / "arrays.npz", **{name: value.numpy() for name, value in STATE.items()})
    return sorted(folder.iterdir())


def test_kind_is_detected_from_the_content(tmp_path):
    kinds = {"zip.pth": "torch", "legacy.pth": "torch", "tensors.safetensors": "safetensors", "arrays.npz": "npz"}
    for path in files(tmp_path):
        for suffix in (".pth", ".safetensors", ".npz", ""):
            renamed = path.rename(tmp_path / f"w{suffix}")
            assert kind(renamed) == kinds[path.name]
            found = read(renamed).tensors
            assert found.keys() == STATE.keys() and all(torch.equal(found[name], STATE[name]) for name in STATE)
            renamed.rename(path)


@pytest.mark.filterwarnings("error")
def test_truncated_files_raise_and_corrupt_ones_raise_or_have_other_values(tmp_path):
    dice = random.Random(0)
    for path in files(tmp_path):
        whole = path.read_bytes()
        for length in (1, 8, 100, len(whole) // 2, len(whole) - 1):
            path.write_bytes(whole[:length])
            with pytest.raises(WeightsError, match=rf"{path.name}: .*[dD]ownload it again"):
                read(path)
        for _ in range(30):
            content = bytearray(whole)
            for _ in range(dice.choice((1, 5, 50))):
                content[dice.randrange(len(content))] = dice.randrange(256)
            path.write_bytes(content)
            try:
                read(path)
            except WeightsError as error:
                assert str(error).startswith(str(path)) and len(str(error)) > len(str(path)) + 30
