"""Lines on memory: its peak in each progress line, and a warning while the first step fills it."""

import io
import time
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console


@pytest.mark.parametrize(
    ("first", "available", "warns"),
    [(0, 0.04, True), (7, 0.04, True), (0, 0.06, False)],
    ids=["full", "full after a resume", "free"],
)
def test_a_line_warns_before_the_first_step_fills_the_memory(monkeypatch, first, available, warns) -> None:
    from pytorch_lightning.trainer.states import TrainerStatus

    from densevit.training.callbacks import training_progress

    left = iter([0.5, available])
    monkeypatch.setattr(training_progress, "available_memory", lambda: next(left, available))
    console = Console(file=io.StringIO(), width=500)
    lines = training_progress.ProgressLines(console)
    trainer: Any = SimpleNamespace(global_step=first, state=SimpleNamespace(status=TrainerStatus.RUNNING))
    lines.on_train_start(trainer, None)  # type: ignore[arg-type]
    lines.on_train_batch_start(trainer)
    time.sleep(0.5)
    trainer.global_step += 1  # ends the watch
    lines.on_train_batch_start(trainer)  # only the first step is watched
    time.sleep(0.3)
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert text.count("Less than 5% of the memory is available in the first step") == warns
    assert ("data.batch_size" in text) == warns


def test_available_memory_is_read_from_linux(monkeypatch, tmp_path) -> None:
    from densevit.training.callbacks import training_progress

    monkeypatch.setattr(training_progress, "_MEMORY", tmp_path / "meminfo")
    assert training_progress.available_memory() == 1.0  # unknown
    (tmp_path / "meminfo").write_text("MemTotal:  1000 kB\nMemFree:  10 kB\nMemAvailable:   40 kB\n")
    assert training_progress.available_memory() == 0.04
