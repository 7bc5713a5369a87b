"""The line of advice beside other programs, on made times of threads."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from rich.console import Console

ALONE, BESIDE = [0.05], [1.0]  # seconds that threads wait in a step of a second


def printed(
    waits: list[float], monkeypatch: pytest.MonkeyPatch, device: str = "cpu", threads: int = 2, seconds: float = 1.0
) -> list[int]:
    """The number of lines after each step. waits: of a second. seconds: of a step."""
    from densevit.training.callbacks import core_waits  # late: Lightning

    clock = {"now": 100.0, "waited": 7.0}
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    console = Console(record=True, width=1000, quiet=False)
    trainer = SimpleNamespace(strategy=SimpleNamespace(root_device=torch.device(device)), is_global_zero=True)
    lines, text = [], ""
    callback = core_waits.CoreWaits(console, Path("runs/a"), lambda: clock["now"], lambda: clock["waited"])
    for trainer.global_step, wait in enumerate(waits):
        if not trainer.global_step:
            callback.on_train_start(trainer, None)
        clock["now"], clock["waited"] = clock["now"] + seconds / 2, clock["waited"] + 5.0  # between steps: not counted
        callback.on_train_batch_start(trainer)
        clock["now"], clock["waited"] = clock["now"] + seconds, clock["waited"] + wait * seconds
        callback.on_train_batch_end(trainer)
        text += console.export_text()
        lines.append(text.count("GOMP_SPINCOUNT=1000 densevit train --resume runs/a"))
    return lines


@pytest.fixture
def default_of_openmp(monkeypatch):
    for name in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(
    ("waits", "first"),
    [
        (BESIDE * 60, 39),  # the 20 steps after the first 20
        (ALONE * 50 + BESIDE * 20, 59),  # half of the last 20 steps: the median is between both
        (ALONE * 50 + BESIDE * 9 + ALONE * 30, None),
        (BESIDE * 20 + ALONE * 30, None),
        (ALONE * 80, None),
    ],
)
def test_one_line_once_half_of_the_last_steps_wait(waits, first, monkeypatch, default_of_openmp):
    expected = [0] * len(waits) if first is None else [0] * first + [1] * (len(waits) - first)
    assert printed(waits, monkeypatch) == expected


@pytest.mark.parametrize("case", [{"device": "cuda"}, {"threads": 1}])
def test_no_line_where_threads_do_not_spin(case, monkeypatch, default_of_openmp):
    assert not any(printed(BESIDE * 50, monkeypatch, **case))


def test_no_line_where_the_user_has_set_how_long_threads_spin(monkeypatch):
    monkeypatch.setenv("OMP_WAIT_POLICY", "passive")
    assert not any(printed(BESIDE * 50, monkeypatch))


def test_steps_are_measured_every_half_second(monkeypatch, default_of_openmp):
    assert printed(BESIDE * 200, monkeypatch, seconds=0.08).index(1) == 20 + 19 * 5  # a step each 0.12 s
