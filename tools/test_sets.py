"""Runs the two sets of tests that a change needs, and prints their times: the tables of CONTRIBUTING.md.

    python tools/test_sets.py

A row for each set, one for each folder of tests/, and the twenty tests that took longest. Minutes are of the whole
command, on all of its processes; seconds of a test are those of its process and of the processes that it started.
"""

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

SETS = {"`pytest`": (), "`pytest -m integration`": ("-m", "integration")}
SLOWEST = 20
ROWS = "TEST_SETS_ROWS"  # the folder to which the processes of pytest write


class Row(NamedTuple):
    """A test, with its wall and CPU seconds, fixtures included."""

    test: str
    wall: float
    cpu: float

    @property
    def room(self) -> str:
        """Its folder below tests/."""
        parts = self.test.partition("::")[0].split("/")
        return parts[1] if len(parts) > 2 else "."


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    """Appends the row of a test to the file of its process; this module is a plugin of pytest."""
    wall, cpu = time.perf_counter(), sum(os.times()[:4])
    result = yield
    row = Row(item.nodeid, time.perf_counter() - wall, sum(os.times()[:4]) - cpu)
    with (Path(os.environ[ROWS]) / f"{os.getpid()}.jsonl").open("a") as file:
        file.write(json.dumps(row) + "\n")
    return result


def run(arguments: tuple[str, ...]) -> tuple[list[Row], float, float]:
    """Runs pytest. Returns the tests, minutes and CPU seconds. Ends this program with pytest's status if tests fail."""
    with tempfile.TemporaryDirectory() as folder:
        environment = {**os.environ, ROWS: folder, "PYTHONPATH": str(Path(__file__).parent)}
        start, before = time.perf_counter(), cpu_of_children()
        command = [sys.executable, "-m", "pytest", "-p", Path(__file__).stem, *arguments]
        status = subprocess.run(command, env=environment, check=False).returncode
        minutes, cpu = (time.perf_counter() - start) / 60, cpu_of_children() - before
        if status:
            sys.exit(status)
        rows = [Row(*json.loads(line)) for file in Path(folder).iterdir() for line in file.read_text().splitlines()]
    return rows, minutes, cpu


def cpu_of_children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def collection_seconds() -> float:
    """The time in which one process collects all tests."""
    start = time.perf_counter()
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-n", "0", "-m", ""]
    subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
    return time.perf_counter() - start


def table(header: list[str], rows: list[list[Any]]) -> str:
    lines = [header, ["---", *["---:"] * (len(header) - 1)], *rows]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)


def main() -> None:
    collection = collection_seconds()
    results = {command: run(arguments) for command, arguments in SETS.items()}
    print(f"\nCollection: {collection:.0f} s.\n")
    rows = [
        [command, f"{len(tests):,}", f"{minutes:.1f}", f"{cpu:,.0f}"]
        for command, (tests, minutes, cpu) in results.items()
    ]
    print(table(["set", "tests", "minutes", "CPU seconds"], rows))

    rooms: dict[str, dict[str, list[Row]]] = defaultdict(lambda: defaultdict(list))
    for command, (tests, *_) in results.items():
        for test in tests:
            rooms[test.room][command].append(test)
    by_set = [
        [
            room,
            *(
                f"{len(by_command[command]):,}: {sum(test.cpu for test in by_command[command]):,.0f} s"
                for command in SETS
            ),
        ]
        for room, by_command in sorted(rooms.items())
    ]
    print("\n" + table(["folder", *(f"{command}, CPU" for command in SETS)], by_set))

    every = [test for tests, *_ in results.values() for test in tests]
    longest = sorted(every, key=lambda test: -test.wall)[:SLOWEST]
    print("\n" + table(["test", "seconds", "CPU"], [[x.test, f"{x.wall:.1f}", f"{x.cpu:.1f}"] for x in longest]))


if __name__ == "__main__":
    main()
