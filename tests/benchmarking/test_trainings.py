from pathlib import Path
from types import SimpleNamespace

import pytest

from densevit.benchmarking import trainings
from densevit.benchmarking.cases import PROTOCOL, cases_of_protocol
from densevit.benchmarking.results import CaseResult
from densevit.benchmarking.trainings import train_case

LOSSES = {5e-4: [9.0, 3.0], 1e-3: [9.0, 2.0], 2e-3: [0.0, 4.0]}  # the second half of each trial counts


class Fit:
    """In place of `fit`: hands the losses of the rate to the callback, and counts calls."""

    def __init__(self) -> None:
        self.calls: list[tuple[float, int]] = []

    def __call__(self, config=None, run_dir=None, callbacks=(), resume=None):
        self.calls.append((config.optim.lr, config.trainer.max_images))
        for callback in callbacks:
            for loss in LOSSES[config.optim.lr]:
                callback.on_train_batch_end(None, None, {"loss": loss}, None, 0)
        return SimpleNamespace(stopped_by=0, metrics={"setr/mIoU": 0.25})


@pytest.fixture
def fits(monkeypatch) -> Fit:
    fits = Fit()
    monkeypatch.setattr(trainings, "fit", fits)
    return fits


def test_the_rate_of_the_lowest_loss_after_an_eighth_of_the_images_is_used(fits, tmp_path):
    [case] = cases_of_protocol(PROTOCOL, ["swin"], ["setr"], [])
    result = CaseResult("")
    train_case(case, result, tmp_path, 800, [*LOSSES], lambda: None)
    assert fits.calls == [(5e-4, 100), (1e-3, 100), (2e-3, 100), (1e-3, 800)]
    assert result.training["trials"] == {"0.0005": 3.0, "0.001": 2.0, "0.002": 4.0}
    assert (result.training["lr"], result.metrics, result.training["main"]) == (
        1e-3, {"setr/mIoU": 0.25}, ["setr/mIoU"],
    )  # fmt: skip
    train_case(case, result, tmp_path, 800, [*LOSSES], lambda: None)
    assert len(fits.calls) == 4  # finished


def test_an_interrupted_training_goes_on_where_it_was(fits, tmp_path, monkeypatch):
    [case] = cases_of_protocol(PROTOCOL, ["swin"], ["setr"], [])
    result = CaseResult("", training={"asked": [800, 5e-4, 1e-3], "trials": {"0.0005": 3.0}})
    train_case(case, result, tmp_path, 800, [5e-4, 1e-3], lambda: None)
    assert fits.calls == [(1e-3, 100), (1e-3, 800)]
    checkpoint = tmp_path / "run" / "checkpoints" / "last.ckpt"
    checkpoint.parent.mkdir(parents=True)
    checkpoint.touch()
    resumed: list[Path] = []

    def resume(config=None, run_dir=None, resume=None):
        resumed.append(resume)
        return SimpleNamespace(stopped_by=0, metrics={"setr/mIoU": 0.5})

    monkeypatch.setattr(trainings, "fit", resume)
    del result.training["metrics"]
    train_case(case, result, tmp_path, 800, [5e-4, 1e-3], lambda: None)
    assert (resumed, result.metrics) == ([tmp_path / "run"], {"setr/mIoU": 0.5})


def test_another_budget_begins_anew(fits, tmp_path):
    [case] = cases_of_protocol(PROTOCOL, ["swin"], ["setr"], [])
    result = CaseResult("")
    train_case(case, result, tmp_path, 800, [1e-3], lambda: None)
    train_case(case, result, tmp_path, 1600, [1e-3], lambda: None)
    assert fits.calls == [(1e-3, 800), (1e-3, 1600)]


def test_a_stopped_training_stops_the_benchmark(fits, tmp_path, monkeypatch):
    [case] = cases_of_protocol(PROTOCOL, ["swin"], ["setr"], [])
    monkeypatch.setattr(trainings, "fit", lambda *_, **__: SimpleNamespace(stopped_by=15, metrics={}))
    result = CaseResult("")
    with pytest.raises(KeyboardInterrupt):
        train_case(case, result, tmp_path, 800, [1e-3], lambda: None)
    assert "metrics" not in result.training
