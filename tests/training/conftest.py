"""Config files of small trainings."""

from pathlib import Path

import pytest

from tests.training.runs import TINY


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    """The file of a config whose model has a few thousand parameters, for 8 steps in 2 epochs."""
    path = tmp_path / "tiny.yaml"
    path.write_text(TINY)
    return path
