"""A run to resume, and a config for runs that are killed."""

from collections.abc import Callable
from pathlib import Path

import pytest

import densevit
from tests.training.runs import SEGMENTATION, SMALL, TINY, edit


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """The file of a config of 40 steps with checkpoints."""
    path = tmp_path / "small.yaml"
    path.write_text(SMALL)
    return path


@pytest.fixture
def stopped(copied_run: Callable[..., Path]) -> Path:
    """A run stopped after two of four steps."""
    run = copied_run(TINY, ["trainer.max_steps=2"])
    edit(run, "max_steps: 2", "max_steps: 4")
    return run


@pytest.fixture
def run(trained: Callable[..., Path]) -> densevit.Run:
    """A run of two steps, which no test changes."""
    return densevit.Run(trained(SEGMENTATION, ["trainer.max_epochs=null", "trainer.max_steps=2"]))
