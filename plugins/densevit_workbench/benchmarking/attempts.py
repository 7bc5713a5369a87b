"""Steps of a benchmark that may fail without ending it."""

import sys
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import TypeVar

from densevit.errors import DensevitError, one_line
from densevit_workbench.benchmarking.benchmark_results import CaseResult

T = TypeVar("T")


def reported(parts: Collection[T], what: str, name: Callable[[T], str], quiet: bool) -> Iterator[T]:
    """Yields the parts of a benchmark; prints a line to stderr when each is finished, unless `quiet`."""
    for number, part in enumerate(parts, 1):
        start = time.perf_counter()
        yield part
        if not quiet:
            seconds = time.perf_counter() - start
            print(f"{what} {number} of {len(parts)}: {name(part)}, {seconds:.1f} s", file=sys.stderr, flush=True)


class Attempts:
    """Runs steps, stores their errors, and saves the results after each."""

    def __init__(self, results: Mapping[str, CaseResult], save: Callable[[], None]) -> None:
        self.results, self.save = results, save

    def __call__(self, name: str, step: str, work: Callable[[], None]) -> bool:
        """Runs a step of a model. Returns whether it succeeded."""
        try:
            work()
        except Exception as error:  # from a plugin or its data, or out of memory
            self.failed(name, step, error)
            return False
        self.save()
        return True

    def failed(self, name: str, step: str, error: Exception) -> None:
        text = one_line(error)
        self.results[name].errors[step] = (
            text if isinstance(error, DensevitError) else f"{type(error).__name__}: {text}"
        )
        self.save()
