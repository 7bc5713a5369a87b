"""Resuming: what of a config may change, and which folders and checkpoints are a run."""

import re
import shutil
from pathlib import Path

import pytest

import densevit
from densevit.errors import WeightsError
from tests.training.runs import checkpoint, edit, resume


@pytest.mark.integration
def test_valid_edit_is_printed_and_applied(stopped, capsys):
    from tests.training.own_callbacks import Noted

    edit(stopped, "lr: 0.001", "lr: 0.0005")
    edit(stopped, "weight_decay: 0.0001", "weight_decay: 0.01")
    edit(stopped, "schedule: cosine", "schedule: constant")
    used = Noted(lambda module, batch: [(g["lr"], g["weight_decay"]) for g in module.optimizers().param_groups])
    overrides = ["optim.betas=[0.8,0.9]", "data.vertical_flip=true"]
    densevit.fit(None, overrides, resume=stopped, callbacks=[used])
    printed = capsys.readouterr().out
    for line in ("optim.lr: 0.001 -> 0.0005", "trainer.max_steps: 2 -> 4", "data.vertical_flip: false -> true"):
        assert line in printed
    assert {group for groups in used.found for group in groups} == {(0.0005, 0.01), (0.0005, 0.0)}
    assert checkpoint(stopped)["optimizer_states"][0]["param_groups"][0]["betas"] == (0.8, 0.9)


def test_a_finished_run_without_its_checkpoints_is_not_trained_anew(stopped: Path) -> None:
    shutil.rmtree(stopped / "checkpoints")
    with pytest.raises(WeightsError, match=rf"it has a model: .*CONFIG weights={re.escape(str(stopped))}"):
        resume(stopped)
    assert (stopped / "model.safetensors").exists()
