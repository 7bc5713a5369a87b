from math import nan
from pathlib import Path
from types import SimpleNamespace

import pytest

from densevit_workbench.benchmarking import trainings
from densevit_workbench.benchmarking.benchmark_results import CaseResult
from densevit_workbench.benchmarking.cases import PROTOCOL, cases_of_protocol

LOSSES = {5e-4: [9.0, 3.0], 1e-3: [9.0, 2.0], 2e-3: [0.0, 4.0]}  # the second half of each trial counts


class Fit:
    """In place of `fit`: hands the losses of the rate to the callback, and counts calls. mIoU is 0.25 + seed / 10."""

    def __init__(self) -> None:
        self.calls: list[tuple[float, int]] = []
        self.seeds: list[tuple[int, str]] = []
        self.resumed: list[Path] = []

    def __call__(self, config=None, run_dir=None, callbacks=(), resume=None):
        if resume is not None:
            self.resumed.append(resume)
            return SimpleNamespace(metrics={"setr/mIoU": 0.5})
        self.calls.append((config.optim.lr, config.trainer.max_images))
        self.seeds.append((config.seed, run_dir.name))
        for callback in callbacks:
            for loss in LOSSES[config.optim.lr]:
                callback.on_train_batch_end(None, None, {"loss": loss}, None, 0)
        return SimpleNamespace(metrics={"setr/mIoU": 0.25 + config.seed / 10, "setr/IoU/star": nan})


@pytest.fixture
def fits(monkeypatch) -> Fit:
    fits = Fit()
    monkeypatch.setattr(trainings, "fit", fits)
    return fits


@pytest.fixture
def train(fits, tmp_path):
    """`train(result, images, rates, seeds=())` trains a case in the folder of the test."""
    [case] = cases_of_protocol(PROTOCOL, ["swin"], ["setr"], [])

    def train(result, images, rates, seeds=()):
        trainings.train_case(case, result, tmp_path, images, rates, seeds, lambda: None)

    return train


def test_the_rate_of_the_lowest_loss_after_an_eighth_of_the_images_is_used(fits, train):
    result = CaseResult("")
    train(result, 800, [*LOSSES])
    assert fits.calls == [(5e-4, 100), (1e-3, 100), (2e-3, 100), (1e-3, 800)]
    assert result.training["trials"] == {"0.0005": 3.0, "0.001": 2.0, "0.002": 4.0}
    assert (result.training["lr"], result.metrics) == (1e-3, {"setr/mIoU": 0.25})
    train(result, 800, [*LOSSES])
    assert len(fits.calls) == 4  # finished


def test_an_interrupted_training_goes_on_where_it_was(fits, train, tmp_path):
    result = CaseResult("", training={"trials": {"0.0005": 3.0}})
    train(result, 800, [5e-4, 1e-3])
    assert fits.calls == [(1e-3, 100), (1e-3, 800)]
    checkpoint = tmp_path / "run" / "checkpoints" / "last.ckpt"
    checkpoint.parent.mkdir(parents=True)
    checkpoint.touch()
    del result.training["runs"]
    train(result, 800, [5e-4, 1e-3])
    assert (fits.resumed, result.metrics) == ([tmp_path / "run"], {"setr/mIoU": 0.5})


def test_each_seed_trains_with_the_rate_of_one_choice(fits, train):
    result = CaseResult("")
    train(result, 800, [5e-4, 1e-3])
    assert fits.seeds == [(0, "lr-0.0005"), (0, "lr-0.001"), (0, "run")]
    assert result.training["deviations"] == {}
    train(result, 800, [5e-4, 1e-3], [0, 1, 2])
    assert fits.seeds[3:] == [(1, "run-seed-1"), (2, "run-seed-2")]  # the first is kept
    assert (fits.calls[3:], result.training["seeds"]) == ([(1e-3, 800)] * 2, [0, 1, 2])
    values = [0.25, 0.35, 0.45]  # their mean is 0.35, and the sample variance (0.01 + 0.01) / 2
    assert [run["metrics"]["setr/mIoU"] for run in result.training["runs"].values()] == pytest.approx(values)
    assert result.metrics == {"setr/mIoU": pytest.approx(0.35)}
    assert result.training["deviations"] == {"setr/mIoU": pytest.approx(0.1)}
