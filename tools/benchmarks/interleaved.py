"""Shared by all comparisons: options, interleaved rounds, peak memory and tables.

Rounds alternate between the contestants, so that other load on the machine slows all of them equally. A ratio is the
median of the rounds' ratios, with the least and the greatest.
"""

import argparse
import multiprocessing
import statistics
import time
from collections.abc import Callable, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

Run = Callable[[], object]
Times = dict[str, list[float]]  # seconds of each round, by contestant


def parser(description: str | None, rounds: int) -> argparse.ArgumentParser:
    """A parser with the options that all comparisons have."""
    made = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--rounds", type=int, default=rounds, help="interleaved repetitions; %(default)s")
    made.add_argument("--threads", type=int, default=2, help="CPU threads; %(default)s")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    made.add_argument("--device", default=device, help="%(default)s")
    return made


def parsed(options: argparse.ArgumentParser) -> argparse.Namespace:
    """The options; PyTorch uses their threads and seed 0."""
    args = options.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    return args


def wait() -> None:
    """Waits until a GPU has completed all work."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def seconds(run: Run) -> float:
    wait()
    start = time.perf_counter()
    run()
    wait()
    return time.perf_counter() - start


def measure(runs: Mapping[str, Run], rounds: int) -> Times:
    """The times of all contestants, after a round that is not counted."""
    every = [{name: seconds(run) for name, run in runs.items()} for _ in range(rounds + 1)]
    return {name: [row[name] for row in every[1:]] for name in runs}


def milliseconds(times: Times, name: str) -> str:
    return f"{1000 * statistics.median(times[name]):.1f}"


def ratio(times: Times, slower: str, faster: str) -> str:
    """The ratio of two contestants' times: median (least ... greatest)."""
    ratios = [a / b for a, b in zip(times[slower], times[faster], strict=True)]
    return f"{statistics.median(ratios):.2f} ({min(ratios):.2f} ... {max(ratios):.2f})"


def peak_memory(make: Callable[..., Run], *args: Any) -> float:
    """MB that three runs of what `make(*args)` returns add at most to a separate process, or to its memory on a GPU."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_peak_memory, (torch.get_num_threads(), make, *args))


def _peak_memory(threads: int, make: Callable[..., Run], *args: Any) -> float:
    torch.set_num_threads(threads)
    run = make(*args)
    before = torch.cuda.memory_allocated() / 1e6 if torch.cuda.is_initialized() else _peak()
    for _ in range(3):
        run()
    return _peak() - before


def _peak() -> float:
    """The peak memory of the GPU, or of this process: `ru_maxrss` would start at the parent's."""
    if torch.cuda.is_initialized():
        return torch.cuda.max_memory_allocated() / 1e6
    return int(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0]) / 1e3


def table(title: str, args: argparse.Namespace, *headings: str, libraries: tuple[str, ...] = ()) -> Table:
    """An empty table, with what was measured on in its caption."""
    versions = ", ".join(f"{name} {metadata.version(name)}" for name in ("torch", *libraries))
    hardware = f"{args.threads} threads" if args.device == "cpu" else torch.cuda.get_device_name(args.device)
    caption = f"{versions}; {args.device}, {hardware}; medians of {args.rounds} interleaved rounds"
    made = Table(title=title, caption=caption)
    for heading in headings:
        made.add_column(heading, justify="left" if heading == headings[0] else "right")
    return made


def show(made: Table) -> None:
    Console(width=140).print(made)
