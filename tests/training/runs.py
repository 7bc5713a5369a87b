"""Trainings and their files. Functions import Lightning, which takes seconds that collecting tests need not."""

import math
import os
import signal
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch

import densevit
from densevit.config import Config

TINY = """
backbone: {name: swin, variant: nano, window_size: 4}
heads:
  detection:
    {name: box_query_detr, num_queries: 8, classification: mal, extensions: {denoising: 1},
     transformer: {width: 32, num_heads: 2, encoder_layers: 1, decoder_layers: 2, feedforward: 32, dropout: 0.1}}
data: {name: scenes, image_size: 64, batch_size: 2, num_workers: 0, train_length: 8, val_length: 3}
optim: {lr: 1e-3, schedule: cosine, warmup_steps: 2}
trainer: {max_epochs: 2, precision: "32", accelerator: cpu, log_every: 1, clip_grad_norm: 0.1}
"""
SEGMENTATION = """
backbone: {name: swin, variant: nano, window_size: 4}
heads: {surfaces: {name: setr, decoder: mla, width: 16, branch_width: 8, auxiliary: [], norm: batch}}
data: {name: scenes, image_size: 32, batch_size: 2, num_workers: 0, train_length: 4, val_length: 3}
optim: {lr: 1e-2}
trainer: {max_epochs: 3, precision: "32", accelerator: cpu}
"""
SMALL = """
backbone: {name: swin, variant: nano, window_size: 4}
heads:
  detection:
    {name: box_query_detr, num_queries: 4, classification: mal, extensions: {denoising: 1},
     transformer: {width: 16, num_heads: 2, encoder_layers: 1, decoder_layers: 1, feedforward: 16, dropout: 0.1}}
data: {name: scenes, image_size: 32, batch_size: 2, num_workers: 0, train_length: 14, val_length: 2}
optim: {lr: 1e-3, warmup: 0.1}
trainer: {max_steps: 40, precision: "32", accelerator: cpu, devices: 1, log_every: 1, checkpoint_every: 3}
"""


def train(config: Config, run_dir: Path | None = None, name: str = "run") -> Path:
    """Trains, and returns the run's folder."""
    return densevit.fit(config, run_dir=run_dir, name=name).path


def resume(run: Path, overrides: Sequence[str] = (), run_dir: Path | None = None) -> Path:
    """Resumes a run or a checkpoint, and returns the folder."""
    return densevit.fit(None, overrides, resume=run, run_dir=run_dir).path


def edit(run: Path, old: str, new: str) -> None:
    """Replaces a part of the run's config."""
    text = (run / "config.yaml").read_text()
    assert old in text
    (run / "config.yaml").write_text(text.replace(old, new))


def without_report() -> AbstractContextManager[object]:
    """Trainings draw nothing and write no report at their end."""
    from densevit.training.run import run_output

    return mock.patch.object(run_output, "_write_report")


@contextmanager
def interrupted_after(
    step: int, number: int = signal.SIGINT, raised: type[BaseException] = KeyboardInterrupt
) -> Iterator[pytest.ExceptionInfo[BaseException]]:
    """A training gets a signal, by default as by Ctrl-C, at the end of this optimiser step; `fit` raises."""
    from densevit.training.callbacks.checkpoint_writer import CheckpointWriter

    original = CheckpointWriter.on_train_batch_end

    def interrupt(self: CheckpointWriter, trainer: Any, *rest: Any) -> None:
        if trainer.global_step == step:
            os.kill(os.getpid(), number)
        original(self, trainer, *rest)

    with mock.patch.object(CheckpointWriter, "on_train_batch_end", interrupt), pytest.raises(raised) as stop:
        yield stop


def rows(run: Path) -> list[dict[str, str]]:
    """The rows of metrics.csv."""
    from densevit.training.run.metrics_csv import MetricsCsv

    return MetricsCsv(run / "metrics.csv").rows()


def recorded(run: Path) -> list[dict[str, str]]:
    """The rows of metrics.csv without speed and memory."""
    return [{name: value for name, value in row.items() if not name.startswith("system/")} for row in rows(run)]


def checkpoint(run: Path) -> dict[str, Any]:
    """The last checkpoint."""
    content: dict[str, Any] = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)
    return content


def weights(run: Path) -> dict[str, torch.Tensor]:
    """Those of the last checkpoint."""
    return checkpoint(run)["state_dict"]


def assert_same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> None:
    assert a.keys() == b.keys()
    for key in a:
        assert torch.equal(a[key], b[key]), key


def assert_same_run(a: Path, b: Path) -> None:
    """Weights, their average, the best metrics and every row of metrics.csv, to the last bit."""
    states = checkpoint(a), checkpoint(b)
    for key in ("state_dict", "current_model_state"):
        assert_same(states[0].get(key, {}), states[1].get(key, {}))
    assert recorded(a) == recorded(b)
    assert (a / "metrics.json").read_text() == (b / "metrics.json").read_text()


def plain(metrics: dict[str, float]) -> dict[str, float | None]:
    """As in metrics.json: null for nan, which is not equal to itself."""
    return {name: None if math.isnan(value) else value for name, value in metrics.items()}
