"""Checks, their results, and the runner."""

import os
import sys
import sysconfig
import time
import traceback
import warnings
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

import densevit
from densevit.errors import did_you_mean

Function = Callable[[Any], str | None]


@dataclass(frozen=True)
class Check:
    """One property of a plugin, as a function of a fixture.

    function: raises Failure if the property does not hold; may return a note. expected, fix: phrases for an exception
    raised by the plugin. required: whether a failure skips all later checks.
    """

    name: str
    function: Function
    expected: str
    fix: str
    required: bool = False


def check(expected: str, fix: str, required: bool = False) -> Callable[[Function], Check]:
    """Decorator that makes a `Check` of a function, with its name."""
    return lambda function: Check(function.__name__, function, expected, fix, required)


class Failure(Exception):  # noqa: N818  # the result of a check, not an error of the checks
    """A property that does not hold. Each part is a phrase without a full stop."""

    def __init__(self, actual: str, expected: str, fix: str) -> None:
        super().__init__(f"found {actual}; expected {expected}. Fix: {fix}.")


class NotChecked(Exception):  # noqa: N818
    """Ends a check early: it passes, with a note on why the rest is not checked."""


def require(condition: object, actual: str, expected: str, fix: str) -> None:
    """Raises Failure if the condition is false."""
    if not condition:
        raise Failure(actual, expected, fix)


@dataclass(frozen=True)
class CheckResult:
    """The result of one check.

    message: empty if the check passed. note: more information, for example on skipped parts.
    """

    name: str
    passed: bool
    message: str
    seconds: float
    note: str = ""


class CheckFailed(AssertionError):  # noqa: N818  # pytest shows the name
    """Raised if at least one check failed; the message lists all failed checks. results: the results of all checks."""

    def __init__(self, plugin: str, results: Sequence[CheckResult]) -> None:
        self.results = tuple(results)
        failed = sum(not result.passed for result in results)
        lines = [f"- {line}" for line in messages(results)]
        super().__init__("\n".join([f"{plugin} fails {failed} of {len(results)} checks:", *lines]))


def messages(results: Sequence[CheckResult]) -> list[str]:
    """One line per failed check."""
    return [f"{result.name}: {result.message}" for result in results if not result.passed]


def run(checks: Sequence[Check], fixture: Any, skip: Collection[str] = ()) -> Iterator[CheckResult]:
    """Runs checks one by one, each from the same seed, and restores the caller's random state.

    Stops after a required check that fails. Raises ValueError for an unknown name in `skip`.
    """
    names = [check.name for check in checks]
    for name in skip:
        if name not in names:
            raise ValueError(f"There is no check {name!r}.{did_you_mean(name, names)}")
    return _run([check for check in checks if check.name not in skip], fixture)


def all_passed(plugin: str, results: Iterator[CheckResult]) -> list[CheckResult]:
    """Returns all results. Raises CheckFailed for any failure."""
    collected = list(results)
    if not all(result.passed for result in collected):
        raise CheckFailed(plugin, collected)
    return collected


def _run(checks: Sequence[Check], fixture: Any) -> Iterator[CheckResult]:
    for i, check in enumerate(checks):
        start = time.perf_counter()
        note, message = "", ""
        with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.manual_seed(0)
            try:
                note = check.function(fixture) or ""
            except NotChecked as reason:
                note = str(reason)
            except Failure as failure:
                message = str(failure)
            except Exception as error:  # any exception of the plugin is a failed check
                exception = described(error, getattr(fixture, "plugin", None))
                message = str(Failure(exception, f"{check.expected}, without an exception", check.fix))
        stop = message and check.required
        if stop and checks[i + 1 :]:
            message += f" The other {len(checks) - i - 1} checks need this one."
        yield CheckResult(check.name, not message, message, time.perf_counter() - start, note)
        if stop:
            return


def described(error: BaseException, plugin: type | None = None) -> str:
    """One line for an exception: type, start of the message, and innermost line of the author's code.

    The author's code is the plugin's package, or else any code outside torch, Python and densevit.
    """
    text = " ".join(str(error).split()).rstrip(".")
    text = f": {text if len(text) <= 300 else text[:297] + '...'}" if text else ""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if not _is_library(frame.filename)]
    plugin_frames = [
        frame for frame in frames if plugin is not None and frame.filename.startswith(_source_path(plugin))
    ]
    where = [f" ({Path(frame.filename).name}, line {frame.lineno})" for frame in plugin_frames or frames]
    return f"{type(error).__name__}{text}{where[-1] if where else ''}"


def _source_path(plugin: type) -> str:
    """The folder of a plugin's top-level package, or the file of its module."""
    file = getattr(sys.modules.get(plugin.__module__.partition(".")[0]), "__file__", None) or "<"
    return str(Path(file).parent) if Path(file).name == "__init__.py" else file


_DENSEVIT = [f"{Path(file).parent}{os.sep}" for file in (densevit.__file__, __file__)]  # not densevit_heads
_TORCH_AND_DENSEVIT = (str(Path(torch.__file__).parent), *_DENSEVIT, "<")
_PYTHON = sysconfig.get_path("stdlib")


def _is_library(file: str) -> bool:
    """Whether a file belongs to torch, Python or this package; other installed packages may be the author's."""
    return file.startswith(_TORCH_AND_DENSEVIT) or (file.startswith(_PYTHON) and "site-packages" not in file)
