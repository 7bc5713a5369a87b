"""How long idle threads of OpenMP spin, on machines that do other work."""

import os
import time
from contextlib import suppress
from pathlib import Path

LOAD = Path("/proc/loadavg")  # of Linux: "0.50 0.40 0.30 2/345 678", two of 345 threads run
_SAMPLES, _SECONDS = 11, 0.005  # samples and the time between them
_TASKS = Path("/proc/self/task")  # of Linux: a folder for each thread of this process
SPIN_COUNT = 1000  # iterations, some microseconds; docs/development/cpus.md compares others


def shorten_waits_beside_other_work(load: Path = LOAD) -> None:
    """Lets idle threads of libgomp release their cores soon, if other processes run on them now.

    Each parallel operation of a CPU ends when its last thread does, and until then the others spin. Where another
    process runs on the last thread's core, they keep the cores from both: steps take up to 70 times as long. Where no
    other process runs, spinning is faster. Results do not change. Has an effect only before torch is imported;
    the environment variables `GOMP_SPINCOUNT` and `OMP_WAIT_POLICY` take precedence.
    """
    if not spins_by_default():
        return
    running = _running_elsewhere(load)
    if running and running + _threads() > (os.cpu_count() or 1):
        os.environ["GOMP_SPINCOUNT"] = str(SPIN_COUNT)


def spins_by_default() -> bool:
    """Whether no environment variable says how long idle threads spin."""
    return not {"GOMP_SPINCOUNT", "OMP_WAIT_POLICY"} & {*os.environ}


def seconds_waited(tasks: Path = _TASKS) -> float:
    """The time that the threads of this process waited for a core while they could run, summed; 0 if the system does
    not tell."""
    nanoseconds = 0
    for file in tasks.glob("*/schedstat"):  # of each thread: nanoseconds on a core, waiting for one, and a count
        with suppress(OSError):  # a thread that has ended
            nanoseconds += int(file.read_text().split()[1])
    return nanoseconds / 1e9


def _running_elsewhere(load: Path) -> int:
    """The least number of threads besides the caller's that run in several samples; 0 if the system does not tell."""
    running = 0
    for sample in range(_SAMPLES):
        if sample:
            time.sleep(_SECONDS)
        try:
            now = int(load.read_text().split()[3].partition("/")[0]) - 1
        except OSError:
            return 0
        running = min(running, now) if sample else now
        if not running:
            break  # at the first sample of an idle machine
    return running


def _threads() -> int:
    """The number of threads of a parallel operation."""
    threads = os.environ.get("OMP_NUM_THREADS", "")
    return int(threads) if threads.isdecimal() else len(os.sched_getaffinity(0))
