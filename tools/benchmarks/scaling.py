"""Images per second and peak memory of a config by number of devices and strategy.

    python tools/benchmarks/scaling.py configs/coco/detr_r50.yaml data.root=~/coco --devices 1 2 4 8 --strategies ddp

`data.batch_size` is the batch size of one process, so all processes have the same work; the ratio to one device is the
efficiency. The first steps, in which kernels and data loading start, are not measured.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from typing import Any

import pytorch_lightning as lightning
import torch
from rich.console import Console
from rich.table import Table

import densevit
from densevit import config as configs

FIRST = 20  # steps that are not measured
KEY = "measured:"


class Measurement(lightning.Callback):
    """Measures the steps after the first, and prints the result in the first process."""

    def __init__(self, batch_size: int, last: int) -> None:
        self.batch_size, self.last = batch_size, last
        self.began = 0.0

    def on_train_batch_end(self, trainer: lightning.Trainer, *_: Any) -> None:
        step = trainer.global_step
        if step not in (FIRST, self.last):
            return
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        if step == FIRST:
            self.began = time.perf_counter()
        elif trainer.is_global_zero:
            images = (self.last - FIRST) * self.batch_size * trainer.world_size
            memory = torch.cuda.max_memory_allocated() / 2**30 if torch.cuda.is_available() else None
            print(KEY, json.dumps({"rate": images / (time.perf_counter() - self.began), "memory": memory}), flush=True)


def measure(config: str, overrides: list[str], steps: int) -> None:
    batch_size = configs.load(config, overrides).data.batch_size
    budget = ["trainer.max_images=null", "trainer.max_epochs=null", f"trainer.max_steps={FIRST + steps}"]
    callbacks = [Measurement(batch_size, FIRST + steps)]
    with tempfile.TemporaryDirectory() as folder:
        densevit.fit(
            config, [*overrides, *budget, "trainer.checkpoint_every=null"], callbacks=callbacks, run_dir=folder
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config")
    parser.add_argument("overrides", nargs="*")
    parser.add_argument("--devices", type=int, nargs="+", default=[1, 2, 4, 8])
    parser.add_argument("--strategies", nargs="+", default=["ddp", "fsdp2"])
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--measure", action="store_true", help=argparse.SUPPRESS)  # one training, in a separate process
    args = parser.parse_intermixed_args()
    if args.measure:
        return measure(args.config, args.overrides, args.steps)
    table = Table("strategy", "devices", "images/s", "of linear", "GiB per GPU")
    for strategy in args.strategies:
        first: float | None = None
        for devices in args.devices:
            keys = [*args.overrides, f"trainer.devices={devices}", f"trainer.strategy={strategy}"]
            command = [sys.executable, __file__, args.config, *keys, "--steps", str(args.steps), "--measure"]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
            lines = [line for line in done.stdout.splitlines() if line.startswith(KEY)]
            if not lines:
                table.add_row(strategy, str(devices), "failed", "", "")
                continue
            measured = json.loads(lines[-1].removeprefix(KEY))
            first = first or measured["rate"] / devices
            share, memory = measured["rate"] / devices / first, measured["memory"]
            shown = "" if memory is None else f"{memory:.1f}"
            table.add_row(strategy, str(devices), f"{measured['rate']:.1f}", f"{share:.0%}", shown)
    Console().print(table)


if __name__ == "__main__":
    main()
