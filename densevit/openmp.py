"""How long idle threads of OpenMP spin, on machines that do other work."""

import os
import statistics
import time
from pathlib import Path

LOAD = Path("/proc/loadavg")  # of Linux: "0.50 0.40 0.30 2/345 678", two of 345 threads run
_SAMPLES, _SECONDS = 11, 0.005  # samples and the time between them
_SPIN_COUNT = 1000  # iterations, some microseconds; docs/development/cpus.md compares others


def shorten_waits_beside_other_work(load: Path = LOAD) -> None:
    """Lets idle threads of libgomp release their cores soon, if other processes run on them now.

    Each parallel operation of a CPU ends when its last thread does, and until then the others spin. Where another
    process runs on the last thread's core, they keep the cores from both: steps take up to 70 times as long. Where no
    other process runs, spinning is faster. Results do not change. Has an effect only before torch is imported;
    the environment variables `GOMP_SPINCOUNT` and `OMP_WAIT_POLICY` take precedence.
    """
    if {"GOMP_SPINCOUNT", "OMP_WAIT_POLICY"} & {*os.environ}:
        return
    running = _running_elsewhere(load)
    if running and running + _threads() > (os.cpu_count() or 1):
        os.environ["GOMP_SPINCOUNT"] = str(_SPIN_COUNT)


def _running_elsewhere(load: Path) -> int:
    """The number of threads that run now, apart from the caller's; 0 if the system does not tell."""
    samples = []
    for _ in range(_SAMPLES):
        try:
            samples.append(int(load.read_text().split()[3].partition("/")[0]) - 1)
        except OSError:
            return 0
        time.sleep(_SECONDS)
    return round(statistics.median(samples))


def _threads() -> int:
    """The number of threads of a parallel operation."""
    threads = os.environ.get("OMP_NUM_THREADS", "")
    return int(threads) if threads.isdecimal() else len(os.sched_getaffinity(0))
