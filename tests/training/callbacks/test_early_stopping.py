"""`trainer.patience`: the end of a run, its checkpoint and its resumption, alone and in two processes."""

from pathlib import Path

import pytest

import densevit
from densevit.errors import ConfigError
from densevit.training.callbacks.best_epoch import BestEpoch
from densevit.training.run.config_checks import check_monitor
from tests.training.runs import checkpoint, interrupted_after


def state(run: Path) -> tuple[int, int]:
    """Step and number of stale validations of the last checkpoint."""
    content = checkpoint(run)
    return content["global_step"], content["callbacks"]["BestModel"]["stale"]


@pytest.mark.integration
@pytest.mark.usefixtures("no_drawings")
def test_run_ends_after_patience_and_resumes_with_more(tiny, tmp_path, capsys, monkeypatch):
    """8 steps with 4 validations, of which the first is the best. An interrupted run goes on counting."""
    monkeypatch.setattr(BestEpoch, "beats", lambda *_: False)
    with interrupted_after(3):
        densevit.fit(tiny, ["trainer.patience=1"], run_dir=tmp_path / "run")
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


def test_patience_without_a_metric_is_an_error() -> None:
    with pytest.raises(ConfigError, match=r"^trainer\.patience is 3, but nothing is validated.* Fix: leave"):
        check_monitor(None, {}, 3)
    assert check_monitor(None, {}) == []
