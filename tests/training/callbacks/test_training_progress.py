"""densevit/training/callbacks/training_progress.py: the remaining time, and lines on memory."""

import io
import re
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest
import torch
from rich.console import Console


def test_the_remaining_time_does_not_jump(monkeypatch: pytest.MonkeyPatch):
    """1,000 steps of 2 s, the first three of 60 s, and ten validations of 100 s."""
    from densevit.training.callbacks import training_progress  # late: Lightning
    from densevit.training.loop.dense_module import DenseModule

    clock, console = SimpleNamespace(now=0.0), Console(file=io.StringIO())
    monkeypatch.setattr(training_progress.time, "monotonic", lambda: clock.now)
    trainer: Any = SimpleNamespace(
        global_step=0,
        world_size=1,
        callback_metrics={},
        is_global_zero=True,
        current_epoch=0,
        num_val_batches=[1],
        strategy=SimpleNamespace(root_device=torch.device("cpu")),
    )
    module = Mock(spec=DenseModule)
    module.record, module.budget = SimpleNamespace(image_ids=[1]), SimpleNamespace(steps=1000, validations=10)
    module.validation = SimpleNamespace(evaluators={}, metrics={})
    progress = training_progress.ProgressLines(console)
    progress.on_train_start(trainer, module)
    left: list[tuple[int, int, bool]] = []
    for step in range(1, 1000):
        clock.now += 60 if step <= 3 else 2
        trainer.global_step = step
        progress.on_train_batch_end(trainer, module)
        if step % 100 == 0:
            progress.on_validation_start(trainer, module)
            clock.now += 100
            progress.on_validation_end(trainer, module)
        lines, console.file = console.file.getvalue(), io.StringIO()  # type: ignore[attr-defined]
        found = re.findall(r"about (\d+) min left(.*)", lines)
        left += [(step, int(minutes), rest == " without validation") for minutes, rest in found]
    assert left[0][0] > 3
    for step, minutes, without in left:
        seconds = (1000 - step) * 2 + (0 if without else 100 * (1000 - step) / 100)
        assert without == (step < 100) and abs(minutes - seconds / 60) <= 1, (step, minutes)
