"""Short forms of `densevit.fit`."""

from collections.abc import Sequence
from pathlib import Path

from densevit.config import Config
from densevit.training.run.fit import fit


def train(config: Config, run_dir: Path | None = None, name: str = "run") -> Path:
    """Trains, and returns the run's folder."""
    return fit(config, run_dir=run_dir, name=name).path


def resume(run: Path, overrides: Sequence[str] = ()) -> Path:
    """Resumes a run, and returns its folder."""
    return fit(None, overrides, resume=run).path
