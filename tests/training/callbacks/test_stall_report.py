"""A batch that takes too long: the stacks on stderr, once, and that the training goes on."""

import faulthandler
import time
from typing import Any

import pytest

import densevit
from densevit import config as configs
from tests.training import poisoned
from tests.training.loop.test_finite_check import POISONED


@pytest.mark.integration
@pytest.mark.usefixtures("no_drawings")
@pytest.mark.parametrize(("split", "stall_after", "reports"), [("train", "1s", 1), ("val", "1s", 2)])
def test_a_slow_batch_is_reported_once_and_training_goes_on(split, stall_after, reports, tmp_path, capfd, monkeypatch):
    """Two images validate, each in a batch; one trains."""
    from tests.training.own_callbacks import Started

    original, started = poisoned.Greys.__getitem__, Started()

    def slow(self, index):
        if self.split == split and started.is_started:
            time.sleep(2.5)
        return original(self, index)

    (tmp_path / "slow.yaml").write_text(POISONED)
    given = ["backbone.where=nowhere", "trainer.max_steps=1", f"trainer.stall_after={stall_after}"]
    config = configs.load(tmp_path / "slow.yaml", given)
    monkeypatch.setattr(poisoned.Greys, "__getitem__", slow)
    densevit.fit(config, run_dir=tmp_path / "run", callbacks=[started])
    printed = capfd.readouterr().err
    assert printed.count("Timeout (0:00:01)!") == printed.count(" in slow\n") == reports
    assert (tmp_path / "run" / "metrics.json").is_file()


def test_each_batch_starts_the_time_again_and_each_end_of_a_training_ends_it(monkeypatch: pytest.MonkeyPatch):
    from densevit.training.callbacks.stall_report import StallReport

    calls: list[Any] = []
    monkeypatch.setattr(faulthandler, "dump_traceback_later", lambda seconds, file: calls.append(seconds))
    monkeypatch.setattr(faulthandler, "cancel_dump_traceback_later", lambda: calls.append("end"))
    report = StallReport(60.0)
    for hook in ("fit_start", "train_batch_end", "validation_batch_end", "exception"):
        getattr(report, f"on_{hook}")()
    report.teardown()
    assert calls == [60.0, 60.0, 60.0, "end", "end"]
