"""Checkpoints as .npz files, shards and folders of the Hugging Face hub; a missing file is refused."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from densevit.errors import WeightsError
from densevit.weights.checkpoint_io import read
from tests.weights.states import STATE, assert_state

# ---- arrays ----


def test_arrays_of_an_npz_are_read_with_their_types(tmp_path):
    arrays = {
        "Transformer/encoderblock_0/MlpBlock_3/Dense_0/kernel": np.arange(6, dtype=np.float32).reshape(2, 3),
        "half": np.ones(2, np.float16),
        "count": np.array(3),
        "big": np.arange(3, dtype=">f4"),
    }
    bfloat16 = torch.tensor([1.5, -2.0, 3e30], dtype=torch.bfloat16)
    np.savez(tmp_path / "w.npz", **arrays, void=bfloat16.view(torch.int16).numpy().view("V2"))
    found = read(tmp_path / "w.npz").tensors
    assert torch.equal(found.pop("void"), bfloat16) and found.keys() == arrays.keys()
    for name, array in arrays.items():
        np.testing.assert_array_equal(found[name].numpy(), array)
    assert found["half"].dtype == torch.float16 and found["count"].shape == ()


def test_an_npz_of_pickled_objects_is_refused_and_not_run(tmp_path):
    class Trap:
        def __reduce__(self):
            return open, (str(tmp_path / "touched"), "w")

    np.savez(tmp_path / "w.npz", a=np.ones(2), b=np.array([Trap()], dtype=object))
    with pytest.raises(WeightsError, match=r"w\.npz: not a complete \.npz of plain arrays.*pickled objects"):
        read(tmp_path / "w.npz")
    assert not (tmp_path / "touched").exists()


# ---- shards ----


def sharded(folder, safe=True):
    parts = [{name: tensor} for name, tensor in STATE.items()]
    stem, suffix = ("model", "safetensors") if safe else ("pytorch_model", "bin")
    where = {}
    for number, part in enumerate(parts, 1):
        name = f"{stem}-{number:05}-of-00002.{suffix}"
        (save_file if safe else torch.save)(part, folder / name)
        where |= dict.fromkeys(part, name)
    index = folder / f"{stem}.{suffix}.index.json"
    index.write_text(json.dumps({"metadata": {"total_size": 36}, "weight_map": where}))
    return index


@pytest.mark.parametrize("safe", [True, False], ids=["safetensors", "bin"])
def test_shards_are_read_as_one_from_their_folder_or_index(safe, tmp_path):
    index = sharded(tmp_path, safe)
    assert_state(read(tmp_path).tensors)
    assert_state(read(index).tensors)


# ---- metadata ----


def test_metadata_of_a_hub_folder_is_read_for_its_files(tmp_path):
    torch.save(STATE, tmp_path / "pytorch_model.bin")
    torch.save(STATE, tmp_path / "other.pth")
    (tmp_path / "config.json").write_text(json.dumps({"id2label": {"0": "cat", "2": "dog", "1": "cow"}}))
    processor = {"do_rescale": True, "rescale_factor": 1 / 255, "image_mean": [0.5, 0.4, 0.3], "image_std": [0.2] * 3}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(processor))
    for source in (tmp_path, tmp_path / "pytorch_model.bin"):
        metadata = read(source).metadata
        assert metadata["classes"] == ["cat", "cow", "dog"]
        assert metadata["mean"] == pytest.approx((0.5, 0.4, 0.3)) and metadata["std"] == pytest.approx((0.2, 0.2, 0.2))
    assert read(tmp_path / "other.pth").metadata == {}
    for meta in ({"CLASSES": ("wall", "sky")}, {"dataset_meta": {"classes": ["wall", "sky"]}}):  # of OpenMMLab
        torch.save({"meta": {"epoch": 3, **meta}, "state_dict": STATE}, tmp_path / "other.pth")
        assert read(tmp_path / "other.pth").metadata == {"classes": ["wall", "sky"]}


def test_a_missing_file_is_refused_with_the_forms_of_published_weights(tmp_path):
    for name in ("nowhere.pt", "nowhere", "time:x"):
        with pytest.raises(WeightsError, match=rf"{name}: no such file.*timm:NAME.*torchvision:NAME.*hf:ORG/NAME"):
            read(f"{tmp_path}/{name}")
