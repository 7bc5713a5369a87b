"""Compares multi-scale deformable attention with the usual formulation with `grid_sample`: time and peak memory.

The usual formulation (authors' code, transformers): a `grid_sample` for each level, then a weighted sum over
all points. Shapes: encoder and decoder of the paper for an image of 800 x 1066, and the encoder of a small recipe.
Rounds are interleaved, so that other load slows both equally. On a CPU, peak memory is measured in a separate process
for each formulation and case.
"""

import argparse
import multiprocessing
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from densevit.layers import deformable_attention as plain
from densevit.layers.fast.deformable_attention import multi_scale_deformable_attention

Shapes = Sequence[tuple[int, int]]
Formulation = Callable[[Tensor, Shapes, Tensor, Tensor], Tensor]

PAPER = ((100, 134), (50, 67), (25, 34), (13, 17))
SMALL = ((16, 16), (8, 8), (4, 4))


class Case(NamedTuple):
    """queries: number of decoder queries; 0 for an encoder, where each cell of each level is a query."""

    batch: int
    shapes: Shapes
    heads: int
    queries: int = 0
    width: int = 32  # of a head
    points: int = 4


CASES = {
    "encoder, 800 x 1066": Case(1, PAPER, 8),
    "encoder, 800 x 1066, batch 2": Case(2, PAPER, 8),
    "decoder, 300 queries": Case(1, PAPER, 8, 300),
    "decoder, 300 queries, batch 2": Case(2, PAPER, 8, 300),
    "small encoder, batch 8": Case(8, SMALL, 4),
}


FORMULATIONS: dict[str, Formulation] = {
    "grid_sample": plain.multi_scale_deformable_attention,
    "densevit": multi_scale_deformable_attention,
}


class Step:
    """One forward pass, or forward and backward pass, of a formulation under autocast if the values are bf16.

    Points lie around their references at a distance of some cells, as in a trained model.
    """

    def __init__(self, name: str, case: Case, device: torch.device, dtype: torch.dtype, train: bool) -> None:
        self.formulation, self.case, self.dtype, self.train = FORMULATIONS[name], case, dtype, train
        torch.manual_seed(0)
        cells = sum(height * width for height, width in case.shapes)
        reference = torch.rand(case.queries, 2) if case.queries else centres(case.shapes)
        points = (case.batch, len(reference), case.heads, len(case.shapes), case.points)
        sizes = torch.tensor([(width, height) for height, width in case.shapes])[:, None]
        locations = reference[:, None, None, None] + 2 * torch.randn(*points, 2) / sizes
        weights = torch.randn(points).flatten(-2).softmax(-1).view(points)
        value = torch.randn(case.batch, cells, case.heads, case.width)
        self.gradient = torch.randn(*points[:2], case.heads * case.width).to(device, dtype)
        self.inputs = [value.to(device, dtype), locations.to(device), weights.to(device)]
        for x in self.inputs:
            x.requires_grad_(train)

    def __call__(self) -> Tensor:
        value, locations, weights = self.inputs
        for x in self.inputs:
            x.grad = None
        with torch.autocast(value.device.type, torch.bfloat16, enabled=self.dtype == torch.bfloat16):
            output = self.formulation(value, self.case.shapes, locations, weights)
        if self.train:
            output.backward(self.gradient)
        return output.detach()

    def seconds(self) -> float:
        self._wait()
        start = time.perf_counter()
        self()
        self._wait()
        return time.perf_counter() - start

    def _wait(self) -> None:
        if self.gradient.is_cuda:
            torch.cuda.synchronize()


def centres(shapes: Shapes) -> Tensor:
    """Centres (x, y) in 0 ... 1 of the cells of all levels, (S, 2)."""
    levels = []
    for height, width in shapes:
        x, y = (torch.arange(width) + 0.5) / width, (torch.arange(height) + 0.5) / height
        levels.append(torch.cartesian_prod(y, x).flip(-1))
    return torch.cat(levels)


def measure(name: str, device: torch.device, dtype: torch.dtype, train: bool, rounds: int) -> tuple[float, ...]:
    """Median milliseconds of grid_sample and densevit, and the median of the rounds' ratios."""
    steps = [Step(formulation, CASES[name], device, dtype, train) for formulation in FORMULATIONS]
    difference = (steps[0]() - steps[1]()).abs().max().item()
    if difference > (1e-4 if dtype == torch.float32 else 5e-2):
        raise SystemExit(f"{name}, {dtype}: the two formulations differ by {difference:g}.")
    pairs = [tuple(step.seconds() for step in steps) for _ in range(rounds)]
    medians = [1e3 * statistics.median(seconds) for seconds in zip(*pairs, strict=True)]
    return *medians, statistics.median(a / b for a, b in pairs)


def peak_memory(name: str, formulation: str, device: torch.device, dtype: torch.dtype, train: bool) -> float:
    """MB that a step adds to a process that holds the inputs, measured in a separate process on a CPU."""
    if device.type == "cuda":
        return _peak_memory(name, formulation, device, dtype, train, torch.get_num_threads())
    context = multiprocessing.get_context("spawn")
    with context.Pool(1) as pool:
        return pool.apply(_peak_memory, (name, formulation, device, dtype, train, torch.get_num_threads()))


def _peak_memory(
    name: str, formulation: str, device: torch.device, dtype: torch.dtype, train: bool, threads: int
) -> float:
    torch.set_num_threads(threads)
    if device.type == "cuda":
        step = Step(formulation, CASES[name], device, dtype, train)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        step()
        return (torch.cuda.max_memory_allocated(device) - before) / 1e6
    Step(formulation, Case(1, ((2, 2),), 1), device, dtype, train)()  # excludes memory that a first step loads
    step = Step(formulation, CASES[name], device, dtype, train)
    before = reset_high_water()
    step()
    return (status("VmHWM") - before) / 1e3


def reset_high_water() -> int:
    """Resets the peak memory of this process to its current memory, which is returned in kB."""
    Path("/proc/self/clear_refs").write_text("5")
    return status("VmRSS")


def status(key: str) -> int:
    return int(Path("/proc/self/status").read_text().partition(f"{key}:")[2].split()[0])


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5, help="interleaved repetitions; %(default)s")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="torch's CPU threads; %(default)s")
    parser.add_argument("--cases", default="", help="only cases whose names contain this text")
    devices = ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]
    parser.add_argument("--device", nargs="+", choices=devices, default=devices, help="all by default")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    for device in map(torch.device, options.device):
        name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"CPU, {options.threads} threads"
        table = Table(
            title=f"Multi-scale deformable attention, {name}",
            caption=f"torch {torch.__version__}; ms, median of {options.rounds} interleaved rounds; ratio: grid_sample "
            "over densevit; peak memory in MB that a step adds to its inputs",
        )
        for heading in ("case", "pass"):
            table.add_column(heading)
        for heading in ("grid_sample", "densevit", "ratio", "MB grid_sample", "densevit"):
            table.add_column(heading, justify="right")
        for case in CASES:
            if options.cases not in case:
                continue
            for dtype in (torch.float32, torch.bfloat16):
                for train in (False, True):
                    usual_time, own_time, ratio = measure(case, device, dtype, train, options.rounds)
                    memory = [peak_memory(case, x, device, dtype, train) for x in FORMULATIONS]
                    kind = "fp32" if dtype == torch.float32 else "bf16"
                    table.add_row(
                        case,
                        f"{kind}, {'forward and backward' if train else 'forward'}",
                        *(f"{x:.1f}" for x in (usual_time, own_time)),
                        f"{ratio:.2f}",
                        *(f"{x:.1f}" for x in memory),
                    )
        Console().print(table)


if __name__ == "__main__":
    main()
