"""Compares what two checkouts compute on one machine, to the last bit: trainings, predictions, messages, resuming.

    python tools/same_results.py BEFORE AFTER [--only ROW ...]

Each row runs with both trees at once, each in processes with one thread, with the tree's packages and entry points
first on the path. Prints a line for each recorded thing: its digest, or where it
differs most. The exit status is 1 if anything differs.
"""

import argparse
import configparser
import csv
import io
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from result_differences import Parts, Results, compare, digest  # type: ignore[import-not-found]  # beside this file
from safetensors.numpy import load_file

STEPS, SIZES = 20, ((96, 128), (128, 96), (80, 80), (128, 128), (100, 144))  # of the images to predict
TRAINING = (
    *(f"trainer.{budget}=null" for budget in ("max_images", "max_epochs")),
    *(f"trainer.max_steps={STEPS}", "trainer.evaluations=2", "trainer.log_every=1", "trainer.loggers=[]"),
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


class Tree:
    """A checkout, and a folder for its rows."""

    def __init__(self, root: Path, out: Path) -> None:
        self.root, self.out = root.resolve(), out
        setup = configparser.ConfigParser()
        setup.read(self.root / "setup.cfg")
        groups = [f"[{group}]\n{names}" for group, names in setup["options.entry_points"].items()]
        information = out / "site" / "densevit-0.dist-info"
        information.mkdir(parents=True)
        (information / "METADATA").write_text("Metadata-Version: 2.1\nName: densevit\nVersion: 0\n")
        (information / "entry_points.txt").write_text("\n".join(groups))
        self.environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(map(str, (out / "site", self.root, self.root / "plugins"))),
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
        return recorded(tree.out / name)

    return row


def recorded(run: Path) -> Results:
    """Recorded values of a run, without times and memory."""
    columns: dict[str, list[str]] = {}
    for row in csv.DictReader(io.StringIO((run / "metrics.csv").read_text())):
        for key, value in row.items():
            columns.setdefault(key, []).append(value)
    logged: Parts = {key: "\n".join(x) for key, x in columns.items() if not key.startswith("system/")}
    return {
        "losses": {"train/loss": logged.pop("train/loss")},
        "logged values": logged,
        "weights": {key: value.numpy() for key, value in weights(run).items()},
        "saved model": dict(load_file(run / "model.safetensors")),
    }


def weights(run: Path) -> dict[str, torch.Tensor]:
    state: dict[str, torch.Tensor] = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    return state


# ---- predictions ----

PREDICTED = ("detr_swin", "panoptic_swin", "setr_vit", "dpt_swin")  # boxes, masks, maps, depth
PYTHON = """
import sys, numpy, torch, densevit
from pathlib import Path
for name in sys.argv[1:]:
    paths = sorted(Path("images").iterdir())
    results = densevit.load(name, device="cpu").predict(paths, threshold=0.0)
    values = {f"{path.stem} {key}": getattr(result, key) for path, result in zip(paths, results) for key in result}
    numpy.savez(f"{name}.npz", **{key: numpy.asarray(value) for key, value in values.items()})
"""


def predictions(tree: Tree) -> Results:
    """Those of the trainings of PREDICTED, which run first if they have not yet."""
    (tree.out / "images").mkdir()
    for i, size in enumerate(SIZES):
        pixels = np.random.default_rng(i).integers(0, 255, (8, 8, 3), np.uint8)
        Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC).save(tree.out / "images" / f"{i}.png")
    results: Results = {}
    for name in PREDICTED:
        if not (tree.out / name).exists():
            training(name)(tree)
        tree.python(PYTHON, name)
        predict, file = ["predict", name, "images", "--device", "cpu", "--out"], f"{name}.onnx"
        tree.succeeds(
            [*predict, f"{name} command"],
            *([*predict, f"{name} three parts", "--part", f"{part}/3"] for part in (1, 2, 3)),
            ["predictions", "join", f"{name} three parts"],
            ["export", name, "--out", file, "--canvas", "128x160"],
            ["predict", file, "images", "--out", f"{name} exported file"],
        )
        results[f"{name} Python"] = dict(np.load(tree.out / f"{name}.npz"))
        for way in ("command", "three parts", "exported file"):
            results[f"{name} {way}"] = files(tree.out / f"{name} {way}")
    return results


def files(folder: Path) -> Parts:
    """The maps and texts of predictions."""
    parts: Parts = {}
    for path in sorted(folder.rglob("*.*")):
        if path.suffix in (".png", ".jpg"):
            parts[str(path.relative_to(folder))] = np.asarray(Image.open(path))
        elif path.suffix == ".npy":
            parts[str(path.relative_to(folder))] = np.load(path)
        elif path.name != "predict.json":  # the settings
            parts[str(path.relative_to(folder))] = path.read_text()
    return parts


# ---- errors ----

TINY = """
backbone: {name: swin, variant: nano, window_size: 4}
heads: {depth: {name: dpt, output: sigmoid, max_depth: 60, width: 16, norm: batch}}
data: {name: scenes, image_size: 64, batch_size: 2, num_workers: 0, train_length: 8, val_length: 2, transforms: resize}
optim: {lr: 1e-2, schedule: cosine, warmup_steps: 2}
trainer: {max_steps: 12, precision: "32", accelerator: cpu, log_every: 1, checkpoint_every: 1, clip_grad_norm: 1.0,
          evaluations: 4, ema: 0.5, accumulate: 2, loggers: []}
"""
BAD_INPUTS = """
nope ; train ; train nope ; train tiny.yaml nope=1 ; train tiny.yaml heads.depth.widht=8 ;
train tiny.yaml backbone.name=swim ; train tiny.yaml backbone.variant=huge ; train tiny.yaml optim.lr=-1 ;
train tiny.yaml optim.name=nope ; train tiny.yaml optim.betas=2 ; train tiny.yaml optim.schedule=nope ;
train tiny.yaml trainer.precision=8 ; train tiny.yaml trainer.max_epochs=2 ; train tiny.yaml trainer.ema=2 ;
train tiny.yaml trainer.monitor=depth/AP ; train tiny.yaml trainer.max_steps=0 ; train tiny.yaml data.name=x ;
train tiny.yaml data.batch_size=0 ; train tiny.yaml data.name=coco data.root=empty ; train text.yaml ;
train tiny.yaml trainer.callbacks=[nope:Nope] ; train tiny.yaml trainer.strategy=nope ; train bad.yaml ;
train tiny.yaml weights=empty ; train tiny.yaml --run-dir run ; train --resume empty ; train --resume run/x ;
train tiny.yaml method=nope ; train tiny.yaml trainer.devices=0 ; train --resume run optim.name=sgd ; evaluate empty ;
evaluate run optim.lr=1 ; evaluate run --out text.yaml ; predict run empty ; predict run x ; predict run text.yaml ;
predict run bad.png ; predict run . --threshold nan ; predict run . --part 4/3 ; predict empty . ;
predict run . --device nope ; export run --out x.y ; predictions join empty ; convert run out ;
convert run out.pth --to nope ; check backbone swin varient=tiny ; report empty
"""


def errors(tree: Tree) -> Results:
    """Messages of commands for bad inputs."""
    inputs = [line.strip() for line in BAD_INPUTS.split(";")]
    (tree.out / "empty").mkdir()
    for name, text in {"tiny.yaml": TINY, "text.yaml": "text", "bad.yaml": "a: [", "bad.png": "text"}.items():
        (tree.out / name).write_text(text)
    made, *printed = tree.commands(
        ["train", "tiny.yaml", "trainer.max_steps=1", "--run-dir", "run"], *(line.split() for line in inputs)
    )
    assert made.startswith("0"), made
    folders = re.compile("|".join(re.escape(str(folder)) for folder in (tree.root, tree.out)))
    return {line: {"": folders.sub("FOLDER", text)} for line, text in zip(inputs, printed, strict=True)}


# ---- resuming ----

KILLED = """
import os, sys, densevit
from pytorch_lightning import Callback
fit = densevit.fit

class Kill(Callback):
    def __init__(self, step):
        self.step = step

    def on_train_batch_end(self, trainer, *_):
        if trainer.global_step == self.step:
            os.kill(os.getpid(), 9)

def in_child(*arguments, **options):
    if not os.fork():
        fit(*arguments, **options)
        os._exit(0)
    os.wait()

in_child("tiny.yaml", run_dir="uninterrupted")
for step in range(1, 13):
    in_child("tiny.yaml", run_dir=f"killed-{step}", callbacks=[Kill(step)])
    in_child(resume=f"killed-{step}")
"""


def resuming(tree: Tree) -> Results:
    """A training that is killed in step 1 ... 12, before its checkpoint, and resumed: its weights."""
    (tree.out / "tiny.yaml").write_text(TINY)
    tree.python(KILLED)
    expected, results = recorded(tree.out / "uninterrupted"), {}
    for step in range(1, 13):
        run = recorded(tree.out / f"killed-{step}")
        same = all(digest(run[name]) == digest(expected[name]) for name in expected)
        results[f"after step {step}"] = {**run["weights"], "": f"{'' if same else 'not '}as uninterrupted"}
    return results


ROWS: dict[str, Callable[[Tree], Results]] = {
    **{name: training(name) for name in TRAININGS},
    "predictions": predictions,
    "errors": errors,
    "resuming": resuming,
}


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("trees", nargs=2, type=Path, metavar="TREE")
    parser.add_argument("--only", nargs="+", choices=ROWS, default=list(ROWS), metavar="ROW", help=", ".join(ROWS))
    args = parser.parse_args(arguments)
    differs = False
    with tempfile.TemporaryDirectory() as out, ThreadPoolExecutor(2) as pool:
        trees = [Tree(root, Path(out) / name) for root, name in zip(args.trees, ("before", "after"), strict=True)]
        for row in args.only:
            for name, value, different in compare(*pool.map(ROWS[row], trees)):
                print(f"| {row} | {name} | {value} | {different or 'equal'} |", flush=True)
                differs |= bool(different)
    return int(differs)


if __name__ == "__main__":
    sys.exit(main())
