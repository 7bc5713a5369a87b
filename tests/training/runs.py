"""Trainings and their files. Functions import Lightning, which takes seconds that collecting tests need not."""

import os
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import torch

import densevit
from densevit.config import Config


def train(config: Config, run_dir: Path | None = None, name: str = "run") -> Path:
    """Trains, and returns the run's folder."""
    return densevit.fit(config, run_dir=run_dir, name=name).path


def resume(run: Path, overrides: Sequence[str] = ()) -> Path:
    """Resumes a run, and returns its folder."""
    return densevit.fit(None, overrides, resume=run).path


@contextmanager
def interrupted_after(step: int) -> Iterator[None]:
    """Trainings get SIGINT, as by Ctrl-C, at the end of this optimiser step."""
    from densevit.training.callbacks.checkpointing import Checkpointing

    original = Checkpointing.on_train_batch_end

    def interrupt(self: Checkpointing, trainer: Any, *rest: Any) -> None:
        if trainer.global_step == step:
            os.kill(os.getpid(), signal.SIGINT)
        original(self, trainer, *rest)

    with mock.patch.object(Checkpointing, "on_train_batch_end", interrupt):
        yield


def rows(run: Path) -> list[dict[str, str]]:
    """The rows of metrics.csv."""
    from densevit.training.run.metrics_csv import MetricsCsv

    return MetricsCsv(run / "metrics.csv").rows()


def recorded(run: Path) -> list[dict[str, str]]:
    """The rows of metrics.csv without speed and memory."""
    return [{name: value for name, value in row.items() if not name.startswith("system/")} for row in rows(run)]


def weights(run: Path) -> dict[str, torch.Tensor]:
    """Those of the last checkpoint."""
    return torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]


def assert_same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> None:
    assert a.keys() == b.keys()
    for key in a:
        assert torch.equal(a[key], b[key]), key
