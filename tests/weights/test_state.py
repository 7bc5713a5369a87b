import argparse
import random

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from densevit.errors import WeightsError
from densevit.layers.norms import FrozenBatchNorm2d
from densevit.weights.state import load_state, part, read_state


def linear_and_norm() -> nn.Sequential:
    return nn.Sequential(nn.Linear(2, 3), nn.LayerNorm(3))


STATE = {
    "0.weight": torch.arange(6.0).view(3, 2),
    "0.bias": torch.ones(3),
    "1.weight": 2 * torch.ones(3),
    "1.bias": -torch.ones(3),
}


def equal(found, expected) -> bool:
    return found.keys() == expected.keys() and all(torch.equal(found[key], value) for key, value in expected.items())


# ---- reading ----


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: state,
        lambda state: {"model": state, "epoch": 3},
        lambda state: {"state_dict": state, "optimizer": {"step": torch.ones(1)}},
        lambda state: {"module": state},
        lambda state: nn.ParameterDict(state).state_dict(),
    ],
    ids=["bare", "model", "state_dict", "module", "ordered"],
)
@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
def test_a_torch_checkpoint_is_read_under_any_usual_key(wrap, legacy, tmp_path):
    state = {"weight": torch.randn(2, 3), "bias": torch.randn(3)}
    torch.save(wrap(state), tmp_path / "weights.pt", _use_new_zipfile_serialization=not legacy)
    assert equal(read_state(tmp_path / "weights.pt"), state)


def test_safetensors_are_read_as_a_file_and_as_a_run_folder(tmp_path):
    save_file(STATE, tmp_path / "model.safetensors")
    assert equal(read_state(tmp_path / "model.safetensors"), STATE)
    assert equal(read_state(str(tmp_path)), STATE)


def test_a_home_directory_is_expanded(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    save_file(STATE, tmp_path / "w.safetensors")
    assert equal(read_state("~/w.safetensors"), STATE)


@pytest.mark.parametrize("name", ["nowhere.pt", "nowhere.safetensors", "nowhere"])
def test_a_missing_file_is_an_error_that_names_it(name, tmp_path):
    with pytest.raises(WeightsError, match=rf"{name}.*: no such file"):
        read_state(tmp_path / name)


def test_a_folder_without_a_model_is_an_error_that_names_the_file(tmp_path):
    with pytest.raises(WeightsError, match="model.safetensors: no such file"):
        read_state(tmp_path)


class Trap:
    """Unpickling it would raise SystemExit."""

    def __reduce__(self):
        return exit, (7,)


@pytest.mark.parametrize("content", [Trap(), {"w": torch.ones(1), "args": argparse.Namespace(lr=1)}], ids=type)
def test_objects_in_a_checkpoint_are_refused_and_not_run(content, tmp_path):
    torch.save(content, tmp_path / "weights.pt")
    with pytest.raises(WeightsError, match=r"weights\.pt: not a checkpoint that can be read safely"):
        read_state(tmp_path / "weights.pt")


def test_a_checkpoint_without_tensors_is_refused(tmp_path):
    torch.save({"epoch": 3, "names": ["a"]}, tmp_path / "weights.pt")
    with pytest.raises(WeightsError, match="holds no tensors by name"):
        read_state(tmp_path / "weights.pt")
    torch.save([torch.ones(1)], tmp_path / "weights.pt")
    with pytest.raises(WeightsError, match="holds no tensors by name"):
        read_state(tmp_path / "weights.pt")


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_a_spoilt_file_is_always_one_clear_error(tmp_path):
    path, dice = tmp_path / "weights.pt", random.Random(0)
    torch.save(STATE, path, _use_new_zipfile_serialization=False)
    legacy = path.read_bytes()
    torch.save(STATE, path)
    whole = path.read_bytes()
    spoilt = [b"", b"not a checkpoint\n", whole[:400], whole[:-30], legacy[: len(legacy) // 2], legacy[:20]]
    spoilt += [dice.randbytes(200) for _ in range(100)]
    for content in spoilt:
        path.write_bytes(content)
        with pytest.raises(WeightsError, match=r"weights\.pt: .*\S"):
            read_state(path)


def test_a_truncated_safetensors_file_is_one_clear_error(tmp_path):
    path = tmp_path / "model.safetensors"
    save_file(STATE, path)
    whole = path.read_bytes()
    for length in (0, 4, 50, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(WeightsError, match=r"model\.safetensors: not a whole safetensors file"):
            read_state(path)


# ---- putting into a module ----


def test_load_state_fills_a_module():
    module = linear_and_norm()
    load_state(module, STATE, "file.pt")
    assert equal(module.state_dict(), STATE)


def test_missing_tensors_are_counted_and_named():
    state = {key: value for key, value in STATE.items() if not key.endswith("bias")}
    with pytest.raises(WeightsError, match=r"^file\.pt does not fit: 2 tensors are missing \(0\.bias, 1\.bias\)\. "):
        load_state(linear_and_norm(), state, "file.pt")


def test_unexpected_tensors_are_counted_and_named():
    state = {**STATE, "2.weight": torch.ones(1), "3.a": torch.ones(1), "3.b": torch.ones(1), "3.c": torch.ones(1)}
    with pytest.raises(WeightsError, match=r"4 are not the model's \(2\.weight, 3\.a, 3\.b, \.\.\.\)"):
        load_state(linear_and_norm(), state, "file.pt")


def test_a_renamed_tensor_is_told_with_its_nearest():
    state = {key.replace("0.", "zero."): value for key, value in STATE.items()}
    with pytest.raises(WeightsError, match=r"zero\.weight, zero\.bias; did you mean '0\.weight'\?\)\. Use"):
        load_state(linear_and_norm(), state, "file.pt")


def test_misshapen_tensors_are_told_with_both_shapes():
    state = {**STATE, "0.weight": torch.ones(4, 2)}
    with pytest.raises(WeightsError, match=r"1 have another shape \(0\.weight is \(4, 2\), expected \(3, 2\)\)"):
        load_state(linear_and_norm(), state, "file.pt")


def test_a_state_that_does_not_fit_leaves_the_module_as_it_was():
    module = linear_and_norm()
    before = {key: value.clone() for key, value in module.state_dict().items()}
    with pytest.raises(WeightsError):
        load_state(module, {**STATE, "1.bias": torch.ones(7)}, "file.pt")
    assert equal(module.state_dict(), before)


@pytest.mark.parametrize(("given", "taken"), [(nn.BatchNorm2d, FrozenBatchNorm2d), (FrozenBatchNorm2d, nn.BatchNorm2d)])
def test_batch_norm_and_frozen_batch_norm_take_each_other_s_state(given, taken):
    source, module = nn.Sequential(given(3)), nn.Sequential(taken(3))
    source[0].running_mean.copy_(torch.tensor([1.0, 2.0, 3.0]))
    load_state(module, source.state_dict(), "file.pt")
    assert module[0].running_mean.tolist() == [1, 2, 3]


def test_part_takes_what_is_under_a_prefix_and_else_everything():
    state = {"backbone.a": torch.ones(1), "heads.x.a": torch.zeros(1), "heads.xx.a": 2 * torch.ones(1)}
    assert equal(part(state, "backbone."), {"a": torch.ones(1)})
    assert equal(part(state, "heads.x."), {"a": torch.zeros(1)})
    assert equal(part(STATE, "backbone."), STATE)
