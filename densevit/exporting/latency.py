"""Latency of several programs that do the same work."""

import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any


def median_latencies(calls: Sequence[Callable[[], Any]], rounds: int) -> list[float]:
    """Median milliseconds of each call, run alternately after a warm-up, so that other load slows all of them."""
    times: list[list[float]] = [[] for _ in calls]
    for _ in range(rounds + 1):
        for own, call in zip(times, calls, strict=True):
            start = time.perf_counter()
            call()
            own.append(1000 * (time.perf_counter() - start))
    return [statistics.median(own[1:]) for own in times]
