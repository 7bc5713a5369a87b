"""Files of densevit and PyTorch, in all usual containers, are read; other and damaged files are refused."""

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
from tests.weights.states import STATE, assert_state

OTHER = {"x": torch.zeros(1)}


def prefixed(prefix, state=STATE):
    return {prefix + name: value for name, value in state.items()}


LIGHTNING = {"pytorch-lightning_version": "2.6", "random_state": [{"cpu": torch.ones(1)}]}


@pytest.mark.parametrize(
    "content",
    [
        {"model_state": STATE, "cfg": "MODEL: MViT", "epoch": 3},
        {"model": "vit_base", "state_dict": STATE},
        {"model_state": OTHER, "state_dict": OTHER, "model": STATE},
        {"teacher": prefixed("module.")},
        {"model": OTHER, "ema": {"module": STATE, "updates": 7}},
        {"state_dict": prefixed("_orig_mod.module.")},
        {"state_dict": prefixed("model."), **LIGHTNING},
        {**STATE, "epoch": 3, "name": "text"},
    ],
)
def test_containers_are_opened_in_order_and_prefixes_removed(content, tmp_path):
    torch.save(content, tmp_path / "weights.pth.tar")
    assert_state(read(tmp_path / "weights.pth.tar").tensors)


def test_prefixes_of_the_layout_and_partial_ones_are_kept(tmp_path):
    for state in (prefixed("model."), prefixed("vit."), {**prefixed("module."), "head.weight": torch.ones(1)}):
        torch.save({"state_dict": state}, tmp_path / "weights.pth")
        assert_state(read(tmp_path / "weights.pth").tensors, state)


def test_safetensors_are_read_with_their_header_also_of_a_run_folder(tmp_path):
    header = {"format": "densevit", "made": "by hand"}
    save_file(prefixed("module."), tmp_path / "model.safetensors", metadata=header)
    (tmp_path / "config.yaml").write_text("seed: 0\n")
    for source in (tmp_path, str(tmp_path)):
        assert_state(read(source).tensors)
        assert read(source).header == header


# ---- errors ----


def test_a_folder_without_weights_is_refused_with_what_is_expected(tmp_path):
    with pytest.raises(WeightsError, match=r"model\.safetensors: no such file\. Name a file, or a folder with one of"):
        read(tmp_path)
    (tmp_path / "config.yaml").touch()
    with pytest.raises(WeightsError, match="The run has not validated yet"):
        read(tmp_path)


@pytest.mark.parametrize("content", [{"epoch": 3, "names": ["a"]}, [torch.ones(1)]])
def test_checkpoint_without_named_tensors_raises(content, tmp_path):
    torch.save(content, tmp_path / "w.pth")
    with pytest.raises(WeightsError, match=r"w\.pth: no state dict, but .*Expected tensors by name"):
        read(tmp_path / "w.pth")


TENSORS = {"weight": torch.arange(600.0).view(3, 200), "bias": torch.ones(3)}

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a2146\nsize 346334829\n"
PAGE = b"\n<!DOCTYPE html>\n<html><head><title>Google Drive - Quota exceeded</title></head><body>" + b"x" * 5000


def zipped(**files: bytes) -> bytes:
    memory = io.BytesIO()
    with zipfile.ZipFile(memory, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return memory.getvalue()


def unknown(content: bytes) -> str:
    """The message of anything else: the size, the first bytes and what is expected."""
    return re.escape(f"is not a checkpoint: {len(content):,} bytes, the first are {content[:60]!r}. Expected a .pth, ")


REFUSED = {  # content, file name, facts
    "empty": (b"", "w.pth", r"is an empty file\. Expected a \.pth.*Download it again"),
    "pointer": (POINTER, "w.safetensors", r"git-LFS pointer, not the file.*git lfs pull"),
    "page": (PAGE, "w.npz", r"an HTML page\. Expected .*Download the file itself"),
    "detectron2": (pickle.dumps({"model": {"w": np.ones(9)}}), "w.pkl", r"a bare pickle, not made.*section Pickles"),
    "zip": (zipped(**{"a/resnet.pth": b"x", "b": b""}), "w.pth", r"without data\.pkl, .*name a file in it"),
    "text": (b"Entry not found", "w.bin", unknown(b"Entry not found")),
}


@pytest.mark.parametrize("case", REFUSED)
def test_files_of_other_formats_are_refused_by_their_bytes(case, tmp_path):
    content, name, facts = REFUSED[case]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(WeightsError, match=rf"{name}: .*(?s:{facts})") as error:
        read(tmp_path / name)
    assert "\n" not in str(error.value)


def files(folder):
    torch.save(TENSORS, folder / "zip.pth")
    torch.save(TENSORS, folder / "legacy.pth", _use_new_zipfile_serialization=False)
    save_file(TENSORS, folder / "tensors.safetensors")
    np.savez(folder / "arrays.npz", **{name: value.numpy() for name, value in TENSORS.items()})
    return sorted(folder.iterdir())


@pytest.mark.filterwarnings("error")
def test_truncated_files_raise_and_corrupt_ones_raise_or_have_other_values(tmp_path):
    dice = random.Random(0)
    for path in files(tmp_path):
        whole = path.read_bytes()
        for length in (8, len(whole) // 2, len(whole) - 1):
            path.write_bytes(whole[:length])
            with pytest.raises(WeightsError, match=rf"{path.name}: .*[dD]ownload it again"):
                read(path)
        for _ in range(10):
            content = bytearray(whole)
            for _ in range(dice.choice((1, 5, 50))):
                content[dice.randrange(len(content))] = dice.randrange(256)
            path.write_bytes(content)
            try:
                read(path)
            except WeightsError as error:
                assert str(error).startswith(str(path)) and len(str(error)) > len(str(path)) + 30
