"""Resuming: what of a config may change, and which folders and checkpoints are a run."""

import re
import shutil
from pathlib import Path

import pytest

from densevit.errors import WeightsError
from densevit.training.callbacks.best_epoch import BestEpoch
from tests.training.runs import checkpoint, edit, resume


@pytest.mark.integration
def test_valid_edit_is_printed_and_applied(stopped, capsys, monkeypatch):
    from densevit.training.callbacks.checkpoint_writer import CheckpointWriter

    edit(stopped, "lr: 0.001", "lr: 0.0005")
    edit(stopped, "weight_decay: 0.0001", "weight_decay: 0.01")
    edit(stopped, "schedule: cosine", "schedule: constant")
    used: list[tuple[float, float]] = []
    original = CheckpointWriter.on_train_batch_end

    def noted(self: CheckpointWriter, trainer, *rest) -> None:  # type: ignore[no-untyped-def]  # Lightning's own arguments
        groups = trainer.optimizers[0].param_groups
        used.append((groups[0]["lr"], max(group["weight_decay"] for group in groups)))
        original(self, trainer, *rest)

    monkeypatch.setattr(CheckpointWriter, "on_train_batch_end", noted)
    monkeypatch.setattr(BestEpoch, "beats", lambda *_: False)
    resume(stopped, ["optim.betas=[0.8,0.9]", "data.vertical_flip=true"])
    printed = capsys.readouterr().out
    for line in ("optim.lr: 0.001 -> 0.0005", "trainer.max_steps: 2 -> 4", "data.vertical_flip: false -> true"):
        assert line in printed
    assert re.search(r"are from the best epoch; no improvement in [2-4] later validations", printed)
    assert used == [(0.0005, 0.01)] * 2
    assert checkpoint(stopped)["optimizer_states"][0]["param_groups"][0]["betas"] == (0.8, 0.9)


def test_a_finished_run_without_its_checkpoints_is_not_trained_anew(stopped: Path) -> None:
    shutil.rmtree(stopped / "checkpoints")
    with pytest.raises(WeightsError, match=rf"it has a model: .*CONFIG weights={re.escape(str(stopped))}"):
        resume(stopped)
    assert (stopped / "model.safetensors").exists()
