"""A run to resume."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.training.runs import TINY, edit


@pytest.fixture
def stopped(copied_run: Callable[..., Path]) -> Path:
    """A run stopped after two of four steps."""
    run = copied_run(TINY, ["trainer.max_steps=2"])
    edit(run, "max_steps: 2", "max_steps: 4")
    return run
