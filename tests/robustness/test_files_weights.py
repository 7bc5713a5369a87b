"""Invalid weights, model files and run folders: the message names the file, what it is and what is expected."""

import json
import struct
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from .conftest import TINY, Refused

KERNEL = "backbone.patch_embed.weight"


def model_file(run: Path, header: dict[str, Any] | None = None, **entries: str | None) -> bytes:
    """The run's model file with another header: with the given metadata, or without metadata if none is given."""
    data = (run / "model.safetensors").read_bytes()
    length = struct.unpack("<Q", data[:8])[0]
    own = json.loads(data[8 : 8 + length])
    metadata = own.pop("__metadata__")
    if entries:
        own["__metadata__"] = {key: value for key, value in (metadata | entries).items() if value is not None}
    text = json.dumps(own | (header or {})).encode()
    return struct.pack("<Q", len(text)) + text + data[8 + length :]


LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:0a\nsize 123456\n"

# Bytes of a file without weights, and the common message of `weights=` and `predict`.
NO_WEIGHTS: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "is an empty file"),
    "web page": (b"<!DOCTYPE html><html><title>Log in</title>", "is an HTML page"),
    "git-LFS pointer": (LFS, "is a git-LFS pointer"),
    "part of a zip": (b"PK\x03\x04" + bytes(100), "is a truncated or corrupt zip archive, 104 bytes"),
}


# Replacements for a run's model.safetensors.
MODEL_FILES: dict[str, tuple[Callable[[Path], bytes], str]] = {
    "cut short": (lambda run: (run / "model.safetensors").read_bytes()[:5000], "not a complete safetensors file"),
    "newer version": (lambda run: model_file(run, format_version="99"), "format version 99, densevit"),
    "no config": (lambda run: model_file(run, config=None), "its header is corrupt ('config')"),
    "config with nan": (
        lambda run: model_file(run, config=TINY.replace("feedforward: 32", "dropout: .nan")),
        "heads.boxes.transformer.dropout should be a finite number, not nan",
    ),
    "config of another model": (lambda run: model_file(run, config=TINY.replace("width: 32", "width: 64")), "shape"),
    "no classes": (lambda run: model_file(run, classes="{}"), "has no classes"),
}  # fmt: skip


@pytest.fixture(autouse=True)
def _image(tiny: str, tmp_path: Path) -> None:
    Image.new("RGB", (64, 64)).save(tmp_path / "a.png")


@pytest.mark.parametrize("name", NO_WEIGHTS)
def test_files_without_weights_are_refused_by_all_commands(
    tmp_path: Path, tiny: str, refused: Refused, name: str
) -> None:
    content, says = NO_WEIGHTS[name]
    (tmp_path / "x.pth").write_bytes(content)
    message = refused("train", tiny, "weights=x.pth", says=("x.pth: ", says, "Expected a .pth"))
    assert refused("predict", "x.pth", "a.png") == message
    assert refused("evaluate", "x.pth") == message
    assert refused("convert", "x.pth", "out") == message
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.png", "tiny.yaml", "x.pth"]


@pytest.mark.parametrize("name", MODEL_FILES)
def test_invalid_model_file_is_refused(tmp_path: Path, tiny_run: Path, refused: Refused, name: str) -> None:
    make, says = MODEL_FILES[name]
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "model.safetensors").write_bytes(make(tiny_run))
    message = refused("predict", "run", "a.png", says=("run/model.safetensors",))
    assert any(text in message for text in says.split("|")), message
    assert not (tmp_path / "predictions").exists()


# ---- tensors ----


def saved(content: Any) -> bytes:
    """A file of `torch.save`."""
    buffer = BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


def changed(run: Path, change: Callable[[torch.Tensor], Any]) -> dict[str, Any]:
    """The run's tensors, one of them changed."""
    state = load_file(run / "model.safetensors")
    return state | {KERNEL: change(state[KERNEL])}


TENSORS: dict[str, tuple[Callable[[Path], dict[str, Any]], str]] = {
    "int8": (lambda run: changed(run, lambda x: x.to(torch.int8)), f"{KERNEL} is torch.int8; dense"),
    "flat": (lambda run: changed(run, torch.Tensor.flatten), "1 have another shape"),
    "text": (lambda run: changed(run, lambda x: "weights"), "1 tensors are missing"),
    "another project": (lambda run: {"a.weight": torch.zeros(2)}, "1 tensors (a.weight), which match no known layout"),
}  # fmt: skip


@pytest.mark.parametrize("name", TENSORS)
def test_invalid_tensor_is_refused(tmp_path: Path, tiny: str, tiny_run: Path, refused: Refused, name: str) -> None:
    make, says = TENSORS[name]
    (tmp_path / "x.pth").write_bytes(saved(make(tiny_run)))
    assert len(refused("train", tiny, "weights=x.pth", says=("x.pth", says)).splitlines()) == 1


def test_checkpoint_is_not_accepted_as_a_run(tmp_path: Path, tiny_run: Path, refused: Refused) -> None:
    (tmp_path / "x.pth").write_bytes(saved(load_file(tiny_run / "model.safetensors")))
    says = ("x.pth: a checkpoint of 154 tensors without classes and config", "Fix: name the run folder")
    refused("predict", "x.pth", "a.png", says=says)
    refused("evaluate", "x.pth", says=says)


# ---- containers, and JSON beside weights ----


INDEX = "hub/model.safetensors.index.json"


@pytest.mark.parametrize(
    ("file", "content", "says"),
    (
        ("x.pth", saved({"model": {"model": {}}}), "no state dict, but a dict of the keys model"),
        ("hub/config.json", '{"pretrained_cfg": {"mean": [1, 2]}}', "three numbers are expected"),
        (INDEX, "[" * 100_000, "not an index of shards"),
        (INDEX, '{"weight_map": 5}', "not an index of shards"),
        (INDEX, '{"weight_map": {"a": "b.safetensors"}}', "No such file or directory: 'hub/b.safetensors'"),
    ),
    ids=lambda value: f"{len(value)} bytes" if isinstance(value, bytes) else str(value)[:40],
)
def test_invalid_weights_are_refused(
    tmp_path: Path, tiny: str, tiny_run: Path, refused: Refused, file: str, content: bytes | str, says: str
) -> None:
    (tmp_path / "hub").mkdir()
    if file != INDEX:
        (tmp_path / "hub" / "model.safetensors").write_bytes(model_file(tiny_run))
    (tmp_path / file).write_bytes(content if isinstance(content, bytes) else content.encode())
    key = "backbone.weights" if file == INDEX else "weights"
    refused("train", tiny, f"{key}={file.partition('/')[0]}", says=(file, says))
