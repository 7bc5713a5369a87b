"""densevit/training/callbacks/best_model.py: `trainer.patience` ends a run, which resumes with more."""

from pathlib import Path

import pytest

import densevit
from tests.training.runs import checkpoint, interrupted_after


def state(run: Path) -> tuple[int, int]:
    """Step and number of stale validations of the last checkpoint."""
    content = checkpoint(run)
    return content["global_step"], content["callbacks"]["BestModel"]["stale"]


@pytest.mark.integration
@pytest.mark.usefixtures("no_drawings")
def test_run_ends_after_patience_and_resumes_with_more(tiny, tmp_path, capsys):
    """8 steps with 4 validations, of which the first is best, as AP stays 0. An interrupted run goes on counting."""
    with interrupted_after(3):
        densevit.fit(tiny, ["trainer.patience=1", "optim.lr=1e-9"], run_dir=tmp_path / "run")
    assert state(tmp_path / "run") == (3, 0)
    run = densevit.fit(resume=tmp_path / "run")
    assert state(run.path) == (4, 1)  # of 8 steps; validations were after 2 and 4
    said = "1 validation without a better detection/AP (trainer.patience) ended training at step 4 of 8."
    assert said in capsys.readouterr().out
    densevit.fit(resume=run.path)
    assert state(run.path) == (4, 1) and said in capsys.readouterr().out
    densevit.fit(resume=run.path, overrides=["trainer.patience=2"])
    assert state(run.path) == (6, 2)
    densevit.fit(resume=run.path, overrides=["trainer.patience=null"])
    assert state(run.path) == (8, 3)
