"""One check, what came of it, and the run of a table of them."""

import sysconfig
import time
import traceback
import warnings
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

import torch

from densevit.errors import did_you_mean

S = TypeVar("S")


@dataclass(frozen=True)
class Check(Generic[S]):
    """One thing that is proved of a subject.

    function: raises Failure where it does not hold; returns a note, or nothing. claim: what is proved, in a few words.
    mend: what to do where the subject itself raises an exception. required: no other check makes sense without it.
    """

    name: str
    function: Callable[[S], str | None]
    claim: str
    mend: str
    required: bool = False


class Failure(Exception):  # noqa: N818  # a finding, not a mistake of the kit
    """What a check found. Each part is a phrase without a full stop."""

    def __init__(self, found: str, expected: str, mend: str) -> None:
        super().__init__(found, expected, mend)
        self.found, self.expected, self.mend = found, expected, mend

    def __str__(self) -> str:
        return f"found {self.found}; expected {self.expected}. Mend: {self.mend}."


@dataclass(frozen=True)
class Result:
    """What came of one check. message: empty where it passed. note: what else there is to say, or was left out."""

    name: str
    passed: bool
    message: str
    seconds: float
    note: str = ""


class CheckFailed(AssertionError):  # noqa: N818  # it reads as pytest shows it
    """One check or more failed. results: all of them; the message lists every one that failed."""

    def __init__(self, subject: str, results: Sequence[Result]) -> None:
        self.results = tuple(results)
        failed = [result for result in results if not result.passed]
        lines = [f"{subject} fails {len(failed)} of {len(results)} checks:"]
        lines += [f"- {result.name}: {result.message}" for result in failed]
        super().__init__("\n".join(lines))


def run(checks: Sequence[Check[S]], subject: S, skip: Collection[str] = ()) -> Iterator[Result]:
    """Runs the checks one by one, each from the same seed; the caller's random numbers stay as they are.

    Ends early where a required one fails. Raises ValueError for a name in `skip` that no check has.
    """
    names = [check.name for check in checks]
    for name in skip:
        if name not in names:
            raise ValueError(f"There is no check {name!r}.{did_you_mean(name, names)}")
    return _run([check for check in checks if check.name not in skip], subject)


def all_passed(subject: str, results: Iterator[Result]) -> list[Result]:
    """All results; raises CheckFailed where one did not pass."""
    found = list(results)
    if not all(result.passed for result in found):
        raise CheckFailed(subject, found)
    return found


def _run(checks: Sequence[Check[S]], subject: S) -> Iterator[Result]:
    for check in checks:
        start = time.perf_counter()
        note, message = "", ""
        with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.manual_seed(0)
            try:
                note = check.function(subject) or ""
            except Failure as failure:
                message = str(failure)
            except Exception as error:  # whatever the subject raises is a finding
                message = str(Failure(described(error), f"{check.claim}, without an exception", check.mend))
        left_out = len(checks) - checks.index(check) - 1
        if message and check.required and left_out:
            message += f" The other {left_out} checks need this one."
        yield Result(check.name, not message, message, time.perf_counter() - start, note)
        if message and check.required:
            return


def described(error: BaseException) -> str:
    """An exception in a line: its kind, the beginning of its message, and where in the author's code it arose."""
    text = " ".join(str(error).split()).rstrip(".")
    text = f": {text if len(text) <= 300 else text[:297] + '...'}" if text else ""
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        if not _is_library(frame.filename):
            return f"{type(error).__name__}{text} ({Path(frame.filename).name}, line {frame.lineno})"
    return f"{type(error).__name__}{text}"


_TORCH_AND_KIT = (str(Path(torch.__file__).parent), str(Path(__file__).parent), "<")
_PYTHON = sysconfig.get_path("stdlib")


def _is_library(file: str) -> bool:
    """Whether a file is torch's, Python's or the kit's. What pip installed counts as the author's: it may well be."""
    return file.startswith(_TORCH_AND_KIT) or (file.startswith(_PYTHON) and "site-packages" not in file)
