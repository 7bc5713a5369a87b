"""Compares backbones with those of timm, torchvision and transformers: time and memory of a training step, in one run.

A step is forward and backward, from images to the gradients of all parameters, in training mode without stochastic
depth. Each backbone returns its feature maps, and the gradients of the maps are given, so that no loss is timed. Rounds
are interleaved: other load slows all of them equally. The ratio is the best peer's time divided by densevit's, the
median of the rounds' ratios; the best peer has the smallest median.
"""

import argparse
import math
import multiprocessing
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from backbone_peers import CASES, Size
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import densevit
from densevit.layers.fast import attention
from densevit.layers.fast.replacement import replace_layers

# densevit's optimisations for speed, each with a function that disables it.
WITHOUT: dict[str, Callable[[], None]] = {
    "written-out": lambda: setattr(attention, "MAX_UNFUSED_KEYS", 0),  # fused attention on a CPU at any length
}
PRODUCTS = ("aten::mm", "aten::addmm", "aten::bmm", "aten::baddbmm", "convolution", "mkldnn_linear", "attention")


def build(name: str, peer: str, size: Size, device: torch.device, compiled: bool) -> nn.Module:
    """densevit's or a peer's model of a case, in training mode. peer: "plain" for densevit's without faster layers."""
    case = CASES[name]
    own = peer in ("densevit", "plain")
    model = densevit.create_backbone(case.plugin, **case.options) if own else case.peers[peer](size)
    if peer == "densevit":
        replace_layers(model)
    model = model.to(device).train()
    return torch.compile(model) if compiled else model  # type: ignore[return-value]  # a module in a module


class Step:
    """Forward and backward of one model over one batch."""

    def __init__(self, model: nn.Module, batch: int, size: Size, device: torch.device, low: torch.dtype | None) -> None:
        self.model, self.device, self.low = model, device, low
        self.images = torch.randn(batch, 3, *size, device=device)
        with torch.no_grad(), self._precision():
            self.gradients = [torch.randn_like(x) for x in self.model(self.images)]

    def _precision(self) -> AbstractContextManager[Any]:
        return torch.autocast(self.device.type, self.low) if self.low else nullcontext()

    def __call__(self) -> None:
        for parameter in self.model.parameters():
            parameter.grad = None
        with self._precision():
            features = self.model(self.images)
        torch.autograd.backward(features, self.gradients)

    def seconds(self, repeats: int) -> float:
        """The mean seconds of a step, over several steps."""
        _wait(self.device)
        start = time.perf_counter()
        for _ in range(repeats):
            self()
        _wait(self.device)
        return (time.perf_counter() - start) / repeats

    def share_of_products(self) -> float:
        """The fraction of the time in matrix products and convolutions; the rest is all other operations."""
        kind = (
            torch.profiler.ProfilerActivity.CUDA if self.device.type == "cuda" else torch.profiler.ProfilerActivity.CPU
        )
        with torch.profiler.profile(activities=[kind]) as profile:
            self()
        events = profile.key_averages()
        time_of = "self_device_time_total" if self.device.type == "cuda" else "self_cpu_time_total"
        own = {event.key: getattr(event, time_of) for event in events}
        return sum(t for key, t in own.items() if any(word in key for word in PRODUCTS)) / sum(own.values())


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def multiply_adds(name: str, batch: int, size: Size) -> float:
    """Multiply-adds of densevit's forward pass over a batch in matrix products and convolutions, counted on the meta
    device."""
    case = CASES[name]
    with torch.device("meta"):
        model = densevit.create_backbone(case.plugin, **case.options).eval()
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            model(torch.randn(batch, 3, *size))
    return counter.get_total_flops() / 2


def peak_memory(name: str, peer: str, batch: int, size: Size, device: str, low: torch.dtype | None) -> float:
    """MB that a training step adds to a process that has built the model, measured in a separate process."""
    context = multiprocessing.get_context("spawn")
    with context.Pool(1) as pool:
        return pool.apply(_peak_memory, (name, peer, batch, size, device, low))


def _peak_memory(name: str, peer: str, batch: int, size: Size, device: str, low: torch.dtype | None) -> float:
    place = torch.device(device)
    model = build(name, peer, size, place, compiled=False)
    if place.type == "cuda":
        step = Step(model, batch, size, place, low)
        torch.cuda.reset_peak_memory_stats(place)
        before = torch.cuda.memory_allocated(place)
        step()
        return (torch.cuda.max_memory_allocated(place) - before) / 1e6
    before = _high_water()
    step = Step(model, batch, size, place, low)
    for _ in range(2):
        step()
    return (_high_water() - before) / 1e3


def _high_water() -> int:
    """The peak memory of this process in kB. `ru_maxrss` would start at the parent's."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0])


def compare(name: str, size: Size, low: torch.dtype | None, args: argparse.Namespace) -> Iterator[tuple[str, ...]]:
    """A row of the table for densevit and for each peer."""
    device = torch.device(args.device)
    peers = ["densevit", *CASES[name].peers]
    steps = {}
    for peer in peers:
        torch.manual_seed(0)
        model = build(name, peer, size, device, args.compile and peer == "densevit")
        steps[peer] = Step(model, args.batch_size, size, device, low)
        steps[peer].seconds(2)
    times: dict[str, list[float]] = {peer: [] for peer in peers}
    for _ in track(range(args.rounds), f"{name} {size[0]}x{size[1]}", console=Console(stderr=True), transient=True):
        for peer in peers:
            times[peer].append(steps[peer].seconds(args.repeats))
    best = min(peers[1:], key=lambda peer: statistics.median(times[peer]))
    ratio = statistics.median(other / own for other, own in zip(times[best], times["densevit"], strict=True))
    for peer in peers:
        median = statistics.median(times[peer])
        memory = peak_memory(name, peer, args.batch_size, size, args.device, low) if args.memory else 0.0
        cells = [f"{1000 * median:.1f}", f"{ratio:.2f}" if peer == "densevit" else ""]
        cells.append(f"{steps[peer].share_of_products():.2f}" if args.products else "")
        cells.append(f"{memory:.0f}" if args.memory else "")
        work = 6 * multiply_adds(name, args.batch_size, size) if args.peak and peer == "densevit" else 0.0
        cells.append(f"{work / median / 1e12 / args.peak:.2f}" if work else "")
        yield f"{name} {size[0]}x{size[1]} {'fp32' if low is None else 'bf16'}", peer, *cells


def scaling(name: str, sizes: Sequence[Size], rounds: int) -> Table:
    """Multiply-adds and time of a forward pass at batch 1, and the exponent of their growth: ~ pixels ** exponent."""
    case = CASES[name]
    model = densevit.create_backbone(case.plugin, **case.options).eval()
    table = Table("size", "multiply-adds, G", "ms", title=name)
    pixels, work, times = [], [], []
    with torch.inference_mode():
        for size in sizes:
            images = torch.randn(1, 3, *size)
            model(images)
            seconds = []
            for _ in range(rounds):
                start = time.perf_counter()
                model(images)
                seconds.append(time.perf_counter() - start)
            pixels.append(size[0] * size[1])
            work.append(multiply_adds(name, 1, size))
            times.append(statistics.median(seconds))
            table.add_row(f"{size[0]}x{size[1]}", f"{work[-1] / 1e9:.2f}", f"{1000 * times[-1]:.1f}")
    span = math.log(pixels[-1] / pixels[0])
    table.add_row("exponent", *(f"{math.log(column[-1] / column[0]) / span:.3f}" for column in (work, times)))
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("cases", nargs="*", default=[name for name in CASES if name != "vit-large"], metavar="CASE")
    parser.add_argument("--size", action="append", help="height x width, 224x224 by default; may be given again")
    parser.add_argument("--precision", choices=("fp32", "bf16", "both"), default="both")
    parser.add_argument("--batch-size", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--repeats", type=int, default=1, help="steps per round")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads")
    parser.add_argument("--compile", action="store_true", help="torch.compile densevit's model")
    parser.add_argument("--products", action="store_true", help="the share of time in matrix products (profiled)")
    parser.add_argument(
        "--memory",
        action="store_true",
        help="the step's peak memory, each model in a separate process (on a CPU: Linux)",
    )
    parser.add_argument("--peak", type=float, help="the chip's dense peak in TFLOP/s, of which the share is shown")
    parser.add_argument("--scaling", action="store_true", help="growth of time with --size, in place of the comparison")
    parser.add_argument("--without", choices=WITHOUT, action="append", default=[], help="disable an optimisation")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    for name in args.without:
        WITHOUT[name]()
    sizes = [(int(h), int(w)) for h, w in (text.split("x") for text in args.size or ["224x224"])]
    if args.scaling:
        for name in args.cases:
            Console().print(scaling(name, sizes, args.rounds))
        return
    versions = ", ".join(
        f"{name} {metadata.version(name)}" for name in ("torch", "torchvision", "timm", "transformers")
    )
    title = f"Forward and backward, batch {args.batch_size}, {args.device}; {versions}"
    table = Table("case", "by", "ms", "ratio", "in products", "peak MB", "of peak", title=title)
    precisions: dict[str, list[torch.dtype | None]]
    precisions = {"fp32": [None], "bf16": [torch.bfloat16], "both": [None, torch.bfloat16]}
    for name in args.cases:
        for size in sizes:
            for low in precisions[args.precision]:
                for row in compare(name, size, low, args):
                    table.add_row(*row)
                table.add_section()
    Console(width=140).print(table)


if __name__ == "__main__":
    main()
