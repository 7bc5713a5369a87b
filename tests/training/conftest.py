"""Config files of small trainings, and what trainings of these tests leave out."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from densevit.reporting import run_report
from tests.training.runs import TINY, without_report


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    """The file of a config whose model has a few thousand parameters, for 8 steps in 2 epochs."""
    path = tmp_path / "tiny.yaml"
    path.write_text(TINY)
    return path


@pytest.fixture(autouse=True)
def no_curves(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reports without curves, which take as long as a small training; tests/reporting tests them."""
    monkeypatch.setattr(run_report, "_curves", lambda path: [])


@pytest.fixture
def no_drawings() -> Iterator[None]:
    """Trainings that draw nothing and write no report at their end."""
    with without_report():
        yield
