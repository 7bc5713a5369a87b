"""Latency of functions that do the same work."""

import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any


def median_latencies(calls: Sequence[Callable[[], Any]], rounds: int) -> list[float]:
    """Median milliseconds of each call; calls alternate after a warm-up, so that other load slows all of them."""
    times: list[list[float]] = [[] for _ in calls]
    for _ in range(rounds + 1):
        for milliseconds, call in zip(times, calls, strict=True):
            start = time.perf_counter()
            call()
            milliseconds.append(1000 * (time.perf_counter() - start))
    return [statistics.median(milliseconds[1:]) for milliseconds in times]
