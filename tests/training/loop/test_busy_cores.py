"""Steps that are slow because other programs use the cores, with a clock of the test's own."""

import os
import threading
import time
import warnings
from types import SimpleNamespace
from typing import Any

import pytest
import torch


class Run:
    """A training on a machine whose time passes only in steps. waits: whether the machine counts what threads wait."""

    def __init__(self, device: str = "cpu", waits: bool = True, num_workers: int = 0) -> None:
        from densevit.training.loop.busy_cores import BusyCores

        self.now, self.waited, self.batches = 0.0, 5.0, 0
        self.trainer: Any = SimpleNamespace(
            global_step=0,
            is_global_zero=True,
            world_size=1,
            strategy=SimpleNamespace(root_device=torch.device(device)),
            train_dataloader=SimpleNamespace(num_workers=num_workers),
        )
        self.cores = BusyCores(lambda: self.now, lambda: self.waited if waits else None)
        self.cores.start(self.trainer)

    def batch(self, seconds: float, waited: float = 0.0, side: int = 10, steps: bool = True) -> None:
        """A batch that takes this time. waited: seconds for which threads wait for a core. steps: whether the optimiser
        steps after it."""
        batch: Any = {"images": torch.empty(2, 3, side, side)}
        self.cores.begin_batch()
        self.now, self.waited, self.batches = self.now + seconds, self.waited + waited, self.batches + 1
        self.trainer.global_step += steps
        self.cores.end_batch(self.trainer, batch)

    def batches_of(self, count: int, *given: float, **options: Any) -> None:
        for _ in range(count):
            self.batch(*given, **options)


@pytest.fixture(autouse=True)
def two_threads_and_warnings_as_errors(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


SLOW = (1.0, 0.4)  # seconds of a step, and of these for a core


def test_steps_that_wait_for_cores_are_a_warning_once():
    run = Run()
    run.batches_of(100, 0.25)
    run.batches_of(39, *SLOW)  # the first 20 take 20 s; 30 s are needed
    message = (
        r"^The 2 threads of the training wait for a core, together 0\.4 s per second, and steps take 4\.0 times as "
        r"long as the fastest one: other programs use these cores\. Fix: end them\. .* OMP_NUM_THREADS=1"
    )
    with pytest.warns(UserWarning, match=message):
        run.batch(*SLOW)
    run.batches_of(200, *SLOW)


def test_slow_from_the_start_is_found_by_the_steps_that_were_not_disturbed():
    run = Run(num_workers=2)
    programs = r"other programs, or its own 1 process with data\.num_workers=2, use these"
    with pytest.warns(UserWarning, match=rf"4\.0 times as long as the fastest one: {programs}"):
        for n in range(40):
            run.batch(*((0.25, 0.0) if n % 10 == 7 else SLOW))


def test_programs_that_never_leave_the_cores_are_found_by_the_waiting_alone():
    run = Run()
    run.batches_of(39, 1.0, 0.6)
    with pytest.warns(UserWarning, match=r"together 0\.6 s per second: other programs use these cores"):
        run.batch(1.0, 0.6)
    Run().batches_of(100, 1.0, 0.45)  # less than a quarter for each of two threads


def test_one_thread_is_not_told_to_use_one(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    run = Run()
    run.batches_of(20, 0.25)
    with pytest.warns(UserWarning, match=r"Fix: end them\.$"):
        run.batches_of(40, *SLOW)


@pytest.mark.parametrize(
    "slow",
    [
        (0.7, 0.3),  # less than three times as long
        (1.0, 0.05),  # longer, without waiting: larger data, or a slower processor
    ],
)
def test_other_slow_steps_are_no_warning(slow: tuple[float, float]):
    run = Run()
    run.batches_of(100, 0.25)
    run.batches_of(200, *slow)


def test_a_short_disturbance_is_no_warning():
    run = Run()
    for _ in range(5):
        run.batches_of(40, 0.25)
        run.batches_of(10, *SLOW)
        run.now, run.waited = run.now + 100, run.waited + 50  # a validation
        run.batches_of(10, *SLOW)


def test_larger_images_take_longer():
    """Of four times the pixels; others wait for a core all the time, without much effect."""
    run = Run()
    for _ in range(100):
        run.batch(0.25, 0.05)
        run.batch(1.0, 0.2, side=20)


def test_accumulated_batches_are_one_step():
    """The last batch of four includes the optimiser, which takes most of the time."""
    run = Run()
    for _ in range(100):
        run.batches_of(3, 0.1, 0.05, steps=False)
        run.batch(2.0, 0.5)
    run = Run()
    with pytest.warns(UserWarning, match=r"take 4\.0 times"):
        for seconds in [0.1] * 20 + [0.4] * 40:
            run.batches_of(3, seconds, 0.4 * seconds, steps=False)
            run.batch(seconds, 0.4 * seconds)


def test_time_between_steps_does_not_count():
    """Loading, validation and checkpoints, also where threads wait for a core."""
    run = Run()
    for _ in range(200):
        run.batch(0.25, 0.05)
        run.now += 5
        run.waited += 2


@pytest.mark.parametrize("options", [{"device": "cuda"}, {"waits": False}])
def test_nothing_is_said_where_it_is_not_known(options: dict[str, Any]):
    run = Run(**options)
    run.batches_of(100, 0.25)
    run.batches_of(100, *SLOW)


@pytest.mark.skipif(not os.path.exists("/proc/self/schedstat"), reason="Linux counts it")
def test_threads_on_one_core_wait_for_it():
    """Three threads of OpenMP's kind, without the interpreter's lock, on one core: two wait at any time."""
    from densevit.training.loop.busy_cores import seconds_waited_for_cores

    before, cores = seconds_waited_for_cores() or 0.0, os.sched_getaffinity(0)
    stop, began = threading.Event(), time.perf_counter()

    def busy() -> None:
        os.sched_setaffinity(0, {min(cores)})
        x = bytes(1 << 20)
        while not stop.is_set():
            __import__("zlib").crc32(x)  # releases the lock

    threads = [threading.Thread(target=busy) for _ in range(3)]
    for thread in threads:
        thread.start()
    time.sleep(0.5)
    waited = (seconds_waited_for_cores() or 0.0) - before
    stop.set()
    for thread in threads:
        thread.join()
    assert waited > 0.5 * (time.perf_counter() - began)
