"""Steps that are slow because other programs use the cores, with a clock of the test's own."""

import warnings
from types import SimpleNamespace
from typing import Any

import pytest
import torch


class Run:
    """A training on a machine whose time passes only in steps. waits: whether the machine counts what threads wait."""

    def __init__(self, device: str = "cpu", waits: bool = True, num_workers: int = 0) -> None:
        from densevit.training.loop.busy_cores import BusyCores

        self.now, self.waited = 0.0, 5.0
        self.trainer: Any = SimpleNamespace(
            global_step=0, is_global_zero=True, world_size=1,
            strategy=SimpleNamespace(root_device=torch.device(device)),
            train_dataloader=SimpleNamespace(num_workers=num_workers),
        )  # fmt: skip
        self.cores = BusyCores(lambda: self.now, lambda: self.waited if waits else None)
        self.cores.start(self.trainer)

    def batches(
        self, count: int, seconds: float, waited: float = 0.0, side: int = 10, steps: bool = True, between: float = 0.0
    ) -> "Run":
        """Batches that take this time. waited: seconds for which threads wait for a core. steps: whether the optimiser
        steps after each. between: seconds until the next, half of which threads wait."""
        for _ in range(count):
            self.cores.begin_batch()
            self.now, self.waited = self.now + seconds, self.waited + waited
            self.trainer.global_step += steps
            self.cores.end_batch(self.trainer, {"images": torch.empty(2, 3, side, side)})
            self.now, self.waited = self.now + between, self.waited + between / 2
        return self


@pytest.fixture(autouse=True)
def two_threads_and_warnings_as_errors(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


SLOW = (1.0, 0.4)  # seconds of a step, and of these for a core


def test_steps_that_wait_for_cores_are_a_warning_once(monkeypatch: pytest.MonkeyPatch):
    run = Run().batches(100, 0.25).batches(39, *SLOW)  # the first 20 take 20 s; 30 s are needed
    message = (
        r"^The 2 threads of the training wait for a core, together 0\.4 s per second, and steps take 4\.0 times as "
        r"long as the fastest one: other programs use these cores\. Fix: end them\. .* OMP_NUM_THREADS=1"
    )
    with pytest.warns(UserWarning, match=message):
        run.batches(1, *SLOW)
    run.batches(200, *SLOW)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    with pytest.warns(UserWarning, match=r"Fix: end them\.$"):  # and no advice on threads, of which there is one
        Run().batches(20, 0.25).batches(40, *SLOW)


def test_slow_from_the_start_is_found_by_the_steps_that_were_not_disturbed():
    run = Run(num_workers=2)
    programs = r"other programs, or its own 1 process with data\.num_workers=2, use these"
    with pytest.warns(UserWarning, match=rf"4\.0 times as long as the fastest one: {programs}"):
        for n in range(40):
            run.batches(1, *((0.25, 0.0) if n % 10 == 7 else SLOW))


def test_programs_that_never_leave_the_cores_are_found_by_the_waiting_alone():
    run = Run().batches(39, 1.0, 0.6)
    with pytest.warns(UserWarning, match=r"together 0\.6 s per second: other programs use these cores"):
        run.batches(1, 1.0, 0.6)
    Run().batches(100, 1.0, 0.45)  # less than a quarter for each of two threads


def test_other_slow_steps_are_no_warning():
    Run().batches(100, 0.25).batches(200, 0.7, 0.3)  # less than three times as long
    Run().batches(100, 0.25).batches(200, 1.0, 0.05)  # longer, without waiting: larger data, or a slower processor
    Run().batches(200, 0.25, 0.05, between=5)  # loading, validation and checkpoints do not count
    for unknown in ({"device": "cuda"}, {"waits": False}):
        Run(**unknown).batches(100, 0.25).batches(100, *SLOW)
    run = Run()
    for _ in range(5):  # a short disturbance, and a validation
        run.batches(40, 0.25).batches(9, *SLOW).batches(1, *SLOW, between=100).batches(10, *SLOW)
    run = Run()
    for _ in range(100):  # images of four times the pixels; others wait for a core all the time, without much effect
        run.batches(1, 0.25, 0.05).batches(1, 1.0, 0.2, side=20)


def test_accumulated_batches_are_one_step():
    run = Run()
    with pytest.warns(UserWarning, match=r"take 4\.0 times"):
        for seconds in [0.1] * 20 + [0.4] * 40:
            run.batches(3, seconds, 0.4 * seconds, steps=False).batches(1, seconds, 0.4 * seconds)
