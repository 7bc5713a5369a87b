"""Resuming runs no code of a checkpoint, and checkpoints contain plain data only."""

import os
import pickle
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch

from densevit import config as configs
from densevit.errors import WeightsError
from densevit.weights.state_dict_io import FORMAT
from tests.training import runs
from tests.training.runs import SEGMENTATION

pytestmark = pytest.mark.integration

TINY = SEGMENTATION
for old, new in (("max_epochs: 3", "max_steps: 1"), ("val_length: 3", "val_length: 1"), ("lr: 1e-2", "lr: 1e-3")):
    TINY = TINY.replace(old, new)


class Trap:
    """Creates a file when unpickled."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self):
        return open, (str(self.target), "w")


def plain(value: object) -> bool:
    if isinstance(value, Mapping):
        return all(plain(v) for pair in value.items() for v in pair)
    if isinstance(value, (list, tuple)):
        return all(map(plain, value))
    return value is None or type(value) in (torch.Tensor, bool, int, float, str)


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
def test_malicious_last_checkpoint_is_refused_and_not_run(legacy, tmp_path):
    run, target = tmp_path / "run", tmp_path / "touched"
    (run / "checkpoints").mkdir(parents=True)
    (run / "config.yaml").write_text(TINY)
    content = {"global_step": 1, "state_dict": {"w": torch.ones(1)}, "random_state": Trap(target)}
    torch.save(content, run / "checkpoints" / "last.ckpt", _use_new_zipfile_serialization=not legacy)
    message = r"last\.ckpt: not a complete checkpoint of tensors and plain values.*No code"
    with pytest.raises(WeightsError, match=message):
        runs.resume(run)
    assert not target.exists()


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no FIFOs")
def test_checkpoint_that_is_a_fifo_or_has_values_of_other_types_is_refused(tmp_path):
    from densevit.training.run.resuming import RunCheckpoint

    path = tmp_path / "checkpoints" / "last.ckpt"
    path.parent.mkdir()
    content = {"global_step": 1, "state_dict": {}, "classes": {}, "config": TINY, "format_version": FORMAT}
    wrong = [{"classes": 3}, {"classes": {"a": 3}}, {"global_step": "x"}]
    for changed in (*wrong, {"optimizer_states": [3]}, {"optimizer_states": [{}]}):
        torch.save(content | changed, path)
        with pytest.raises(WeightsError, match=r"last\.ckpt: not a complete checkpoint"):
            RunCheckpoint(tmp_path)
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(WeightsError, match=r"last\.ckpt: not a complete checkpoint .*not a regular file"):
        RunCheckpoint(tmp_path)


@pytest.mark.usefixtures("no_drawings")
def test_checkpoint_is_plain_and_lightning_loads_it_with_weights_only(tmp_path, monkeypatch):
    from densevit.training.run.resuming import RunCheckpoint

    (tmp_path / "tiny.yaml").write_text(TINY)
    run = runs.train(configs.load(tmp_path / "tiny.yaml"), tmp_path / "run")
    path, target = run / "checkpoints" / "last.ckpt", tmp_path / "touched"
    content = torch.load(path, weights_only=True)
    assert plain(content)
    [state] = content["random_state"]  # of the only process
    assert set(state) == {"cpu"} and state["cpu"].dtype == torch.uint8

    checkpoint = RunCheckpoint(run)  # bypasses the first check
    monkeypatch.setattr("densevit.training.run.fit.RunCheckpoint", lambda run: checkpoint)
    torch.save({**content, "callbacks": {**content["callbacks"], "x": Trap(target)}}, path)
    with pytest.raises(pickle.UnpicklingError):
        runs.resume(run, ["trainer.max_steps=2"])
    assert not target.exists()
