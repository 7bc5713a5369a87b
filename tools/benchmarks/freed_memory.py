"""Processor time of training steps on one thread, with glibc's default settings and with densevit's settings.

By default glibc returns the memory of large freed tensors to the kernel, which then clears new pages in each step;
`keep_freed_memory` in `densevit/allocator.py` keeps it. Each measurement is a separate process: the median of
steps of a recipe on its first batches, with forward, losses, backward and optimiser. Processes of both settings
alternate, and the ratio is the median of the rounds' ratios. Processor time includes the kernel's time and depends
little on other load.
"""

import argparse
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from densevit.allocator import keep_freed_memory
from densevit.config import load
from densevit.data.build import build_data
from densevit.training.loop.optim import optimizer_of
from densevit.weights.building import build_model

RECIPES = ("detr_swin", "detector", "scenes/dino_detr_swin", "setr_vit", "scenes/setr_resnet", "dpt_swin")
BATCHES, WARMUP, STEPS = 6, 4, 20
LEARNING_RATE = 1e-6  # the schedule's warm-up is left out


def measure(recipe: str) -> tuple[float, float]:
    """Milliseconds of a step in this process, and its peak memory in MB."""
    torch.set_num_threads(1)
    config = load(recipe, ["data.num_workers=0", "data.val_length=8", f"optim.lr={LEARNING_RATE}"])
    data = build_data(config)
    model = build_model(config, data.train).train()
    optimizer = optimizer_of(model, config.optim, LEARNING_RATE)
    loader = iter(data.train_loader())
    batches = [next(loader) for _ in range(BATCHES)]
    times = []
    for number in range(WARMUP + STEPS):
        batch = batches[number % BATCHES]
        begun = time.process_time()
        with torch.autocast("cpu", torch.bfloat16):
            losses = model.loss(model(batch), batch["targets"])
        torch.stack(list(losses.values())).sum().backward()
        optimizer.step()
        optimizer.zero_grad()
        times.append(1e3 * (time.process_time() - begun))
    return statistics.median(times[WARMUP:]), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3


def measured(recipe: str, keep: bool) -> tuple[float, float]:
    """`measure` in a separate process."""
    arguments = [sys.executable, __file__, recipe, "--child", "kept" if keep else "usual"]
    output = subprocess.run(arguments, capture_output=True, text=True, check=True).stdout
    step, held = map(float, output.split()[-2:])
    return step, held


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("recipes", nargs="*", default=RECIPES, metavar="RECIPE", help=f"{', '.join(RECIPES)}")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--child", choices=("usual", "kept"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        if args.child == "kept":
            keep_freed_memory()
        print(*measure(args.recipes[0]))
        return
    table = Table("recipe", "usual, ms", "kept, ms", "ratio", "usual, MB", "kept, MB")
    for recipe in args.recipes:
        rounds = [(measured(recipe, keep=False), measured(recipe, keep=True)) for _ in range(args.rounds)]
        usual, kept = zip(*rounds, strict=True)
        (times, memory), (kept_times, kept_memory) = (tuple(zip(*values, strict=True)) for values in (usual, kept))
        ratio = statistics.median(b / a for a, b in zip(times, kept_times, strict=True))
        values = (statistics.median(times), statistics.median(kept_times))
        peaks = (statistics.median(memory), statistics.median(kept_memory))
        table.add_row(Path(recipe).stem, *(f"{x:.0f}" for x in values), f"{ratio:.2f}", *(f"{x:,.0f}" for x in peaks))
    Console().print(table)


if __name__ == "__main__":
    main()
