"""Compares what two checkouts compute on one machine, to the last bit: trainings, predictions, messages, resuming.

    python tools/same_results.py BEFORE AFTER [--only ROW ...]

Each row runs with both trees at once, each in processes with one thread and PYTHONPATH=TREE:TREE/plugins; plugins are
found through the entry points that are installed. Prints a line for each recorded thing: its digest, or where it
differs most. The exit status is 1 if anything differs.
"""

import argparse
import csv
import hashlib
import io
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.numpy import load_file

STEPS, SIZES = 20, ((96, 128), (128, 96), (80, 80), (128, 128), (100, 144))  # of the images to predict
TRAINING = (
    *(f"trainer.{budget}=null" for budget in ("max_images", "max_epochs")),
    *(f"trainer.max_steps={STEPS}", "trainer.evaluate_every=0.5", "trainer.log_every=1", "trainer.loggers=[]"),
    *("trainer.precision=32", "trainer.accelerator=cpu", "trainer.checkpoint_every=null", "optim.lr=1e-3"),
    *("data.batch_size=4", "data.num_workers=0"),
)
SCENES = ("data.train_length=200", "data.val_length=8")
TRAININGS = {
    "detr_swin": ("detr_swin", SCENES),
    "setr_vit": ("setr_vit", (*SCENES, "trainer.accumulate=2")),
    "dpt_swin": ("dpt_swin", (*SCENES, "trainer.ema=0.9")),
    "panoptic_swin": ("panoptic_swin", SCENES),
    "multitask_swin": ("scenes/multitask_swin", SCENES),
    "mean_teacher": ("mean_teacher", ()),
}
MEAN_TEACHER = """
base: {configs}/scenes/multitask_swin.yaml
method: {{name: mean_teacher, burn_in: 5}}
data:
  name: mix
  image_size: 128
  transforms: resize
  sets:
    few: {{name: scenes, train_length: 100, val_length: 8, per_batch: 2, masks: false}}
    many: {{name: scenes, train_length: 100, val_length: 8, per_batch: 2, seed: 1, provides: []}}
"""

Parts = dict[str, np.ndarray | str]  # what is compared, by name: tensors, maps, texts
Results = dict[str, Parts]


class Tree:
    """A checkout, and a folder for its rows."""

    def __init__(self, root: Path, out: Path) -> None:
        self.root, self.out = root.resolve(), out
        self.environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join((str(self.root), str(self.root / "plugins"))),
            **dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1"),
        }

    def python(self, program: str, *arguments: str) -> str:
        """Runs a program in the folder. Returns its output."""
        command = [sys.executable, "-c", program, *arguments]
        ended = subprocess.run(command, cwd=self.out, env=self.environment, capture_output=True, text=True)
        if ended.returncode:
            raise SystemExit(f"{self.root}: {' '.join(arguments)[:200]}\n{ended.stderr[-3000:]}")
        return ended.stdout

    def commands(self, *commands: Sequence[str]) -> list[str]:
        """Runs commands of densevit in one process. Returns what each printed to stderr, after its exit code."""
        return json.loads(self.python(COMMANDS, json.dumps(commands)).splitlines()[-1])

    def succeeds(self, *commands: Sequence[str]) -> None:
        for command, printed in zip(commands, self.commands(*commands), strict=True):
            if not printed.startswith("0\n"):
                raise SystemExit(f"{self.root}: densevit {' '.join(command)}: {printed[-3000:]}")


COMMANDS = """
import contextlib, io, json, sys
from densevit.cli import main
results = []
for command in json.loads(sys.argv[1]):
    errors = io.StringIO()
    with contextlib.redirect_stderr(errors), contextlib.redirect_stdout(io.StringIO()):
        code = main(command)
    results.append(f"{code}\\n{errors.getvalue()}")
print(json.dumps(results))
"""


# ---- trainings ----


def training(name: str) -> Callable[[Tree], Results]:
    config, overrides = TRAININGS[name]

    def row(tree: Tree) -> Results:
        path = tree.root / "configs" / f"{config}.yaml"
        if name == "mean_teacher":
            path = tree.out / "mean_teacher.yaml"
            path.write_text(MEAN_TEACHER.format(configs=tree.root / "configs"))
        tree.succeeds(["train", str(path), *TRAINING, *overrides, "--run-dir", name])
        return of_run(tree.out / name)

    return row


def of_run(run: Path) -> Results:
    """What a run recorded, without times and memory."""
    columns: dict[str, list[str]] = {}
    for row in csv.DictReader(io.StringIO((run / "metrics.csv").read_text())):
        for key, value in row.items():
            columns.setdefault(key, []).append(value)
    logged: Parts = {key: "\n".join(x) for key, x in columns.items() if not key.startswith("system/")}
    state = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    return {
        "losses": {"train/loss": logged.pop("train/loss")},
        "logged values": logged,
        "weights": {key: value.numpy() for key, value in state.items()},
        "saved model": dict(load_file(run / "model.safetensors")),
    }


# ---- comparison ----


def digest(parts: Parts) -> str:
    hashed = hashlib.sha256()
    for name, part in sorted(parts.items()):
        shape = "" if isinstance(part, str) else f"{part.dtype}{part.shape}"
        hashed.update(f"{name}\0{shape}".encode())
        hashed.update(part.encode() if isinstance(part, str) else part.tobytes())
    return hashed.hexdigest()[:12]


NUMBER = re.compile(r"-?\d+(?:\.\d+)?(?:e[-+]?\d+)?")


def difference(before: Parts, after: Parts) -> str:
    """Where two results differ most, and by how much; empty if they are equal."""
    if names := sorted(before.keys() ^ after.keys()):
        return f"only in one: {', '.join(names)}"
    found = [
        (apart(before[name], after[name]), name)
        for name in before
        if digest({"": before[name]}) != digest({"": after[name]})
    ]
    if not found:
        return ""
    most, name = max(found)
    shown = f"by {most:.3g}" if most < float("inf") else f"{before[name]!s:.200} | {after[name]!s:.200}"
    return f"{len(found)} of {len(before)} parts, most {name}: {shown}"


def apart(before: np.ndarray | str, after: np.ndarray | str) -> float:
    """The largest difference of numbers; infinite if something else differs."""
    if isinstance(before, str) and isinstance(after, str):
        if NUMBER.sub("", before) != NUMBER.sub("", after):
            return float("inf")
        before, after = (np.array(NUMBER.findall(text), np.float64) for text in (before, after))
    if isinstance(before, str) or isinstance(after, str) or before.shape != after.shape or not before.size:
        return float("inf")
    return float(np.nan_to_num(np.abs(before.astype(np.float64) - after), nan=np.inf).max())


def compare(before: Results, after: Results) -> Iterator[tuple[str, str, str]]:
    """Yields the name of each thing, its digest before, and the difference."""
    for name in {**before, **after}:
        a, b = before.get(name, {}), after.get(name, {})
        yield name, digest(a), difference(a, b)


ROWS: dict[str, Callable[[Tree], Results]] = {name: training(name) for name in TRAININGS}


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("trees", nargs=2, type=Path, metavar="TREE")
    parser.add_argument("--only", nargs="+", choices=ROWS, default=list(ROWS), metavar="ROW", help=", ".join(ROWS))
    args = parser.parse_args(arguments)
    differs = False
    with tempfile.TemporaryDirectory() as out, ThreadPoolExecutor(2) as pool:
        trees = [Tree(root, Path(out) / name) for root, name in zip(args.trees, ("before", "after"), strict=True)]
        for tree in trees:
            tree.out.mkdir()
        for row in args.only:
            for name, value, different in compare(*pool.map(ROWS[row], trees)):
                print(f"| {row} | {name} | {value} | {different or 'equal'} |", flush=True)
                differs |= bool(different)
    return int(differs)


if __name__ == "__main__":
    sys.exit(main())
