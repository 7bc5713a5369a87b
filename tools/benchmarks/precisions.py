"""Compares loss, images per second and memory of recipes in several precisions.

    python tools/benchmarks/precisions.py configs/detr_swin.yaml configs/setr_vit.yaml configs/dpt_swin.yaml

Each recipe is trained for `--steps` optimiser steps in each precision, from the same weights on the same images. A loss
or gradient that is not finite fails the training. The loss is the mean over the last fifth of the steps; `--seeds`
trainings in the first precision show its noise.
"""

import argparse
import statistics
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

import densevit
from densevit.training.run.metrics_csv import MetricsCsv

KEYS = {"tf32": ["trainer.precision=32", "trainer.tf32=true"]}
"""Config keys for a precision that is not a value of `trainer.precision`."""
COLUMNS = ("system/images_per_second", "system/data_wait", "system/memory_gb")


def train(config: str, overrides: Sequence[str], precision: str, seed: int, steps: int) -> dict[str, float]:
    """The loss at the end of a training, and the means of `COLUMNS` over its steps without the first fifth."""
    every = max(1, steps // 50)
    budget = ["trainer.max_images=null", "trainer.max_epochs=null", f"trainer.max_steps={steps}"]
    keys = [f"seed={seed}", f"trainer.log_every={every}", "trainer.evaluate_every=0.999", "trainer.loggers=[]"]
    keys += KEYS.get(precision, [f"trainer.precision={precision}"])
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    with tempfile.TemporaryDirectory() as folder:
        run = densevit.fit(config, [*overrides, *budget, *keys], run_dir=Path(folder) / "run")
        rows = [row for row in MetricsCsv(run.path / "metrics.csv").rows() if row.get("train/loss")]
    last = rows[-max(1, len(rows) // 5) :]
    found = {"loss": statistics.fmean(float(row["train/loss"]) for row in last)}
    for name in COLUMNS:
        values = [float(row[name]) for row in rows[len(rows) // 5 :] if row.get(name)]
        found[name] = statistics.fmean(values) if values else float("nan")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("configs", nargs="+", metavar="CONFIG")
    parser.add_argument(
        "--set", nargs="*", default=[], metavar="KEY=VALUE", help="overrides of all configs: data.root=~/coco"
    )
    parser.add_argument("--precisions", nargs="+", default=["32", "tf32", "bf16-mixed", "16-mixed"], metavar="NAME")
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--seeds", type=int, default=3, help="trainings in the first precision; %(default)s")
    args = parser.parse_args()
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
    table = Table("config", "precision", "loss", "images/s", "data wait", "GB", title=f"{args.steps} steps, {device}")
    for config in args.configs:
        for i, precision in enumerate(args.precisions):
            seeds = range(args.seeds if i == 0 else 1)
            runs = [train(config, args.set, precision, seed, args.steps) for seed in seeds]
            losses = [run["loss"] for run in runs]
            spread = f" ({min(losses):.3f} ... {max(losses):.3f})" if len(losses) > 1 else ""
            rate, wait, memory = (statistics.fmean(run[name] for run in runs) for name in COLUMNS)
            cells = (f"{losses[0]:.3f}{spread}", f"{rate:.1f}", f"{wait:.1%}", f"{memory:.2f}")
            table.add_row(Path(config).stem, precision, *cells)
        table.add_section()
    Console().print(table)


if __name__ == "__main__":
    main()
