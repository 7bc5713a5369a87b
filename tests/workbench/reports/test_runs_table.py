"""`densevit report --table`: a row for each group of runs that differ only in their seed. Expected values by hand."""

import json
from pathlib import Path
from typing import Any

import pytest

from densevit.cli import main

CONFIG = """
seed: {seed}
backbone: {{name: {backbone}, weights: null}}
heads: {{far: {{name: dpt}}}}
data: {{name: depth, val_split: {split}, root: {root}, num_workers: {workers}}}
optim: {{lr: {lr}}}
trainer: {{max_epochs: 12, log_every: {workers}}}

# Derived from the above:
# training images: 80
# validation images: 8
# images per optimiser step: 16
# optimiser steps: {steps}, 12.00 epochs
# learning rate: {lr}
# precision: bf16-mixed
# parameters: {parameters}
"""
CAPTION = (
    "Metrics come from the best validation, as fractions and metres; with several seeds, the mean ± the sample "
    "standard deviation."
)
HEADER = "| backbone | parameters, M | images seen | epochs | seeds | AbsRel | delta1 |"
RULE = "| --- | ---: | ---: | ---: | ---: | ---: | ---: |"


def write_run(folder: Path, error: float | None, inliers: float, step: int = 1200, **changes: Any) -> Path:
    """A run of 1,200 steps with two metrics, and one of a single class."""
    folder.mkdir(parents=True)
    values = {
        "seed": 0,
        "backbone": "my_net",
        "split": "val",
        "root": "nyu",
        "workers": 4,
        "lr": 0.1,
        "steps": "1,200",
        "parameters": "1,629,481",
    }
    (folder / "config.yaml").write_text(CONFIG.format(**values | changes))
    metrics = {"far/AbsRel": error, "far/delta1": inliers, "far/AbsRel/wall": 0.7}
    (folder / "metrics.json").write_text(json.dumps(metrics))
    (folder / "metrics.csv").write_text(f"step,train/loss,far/AbsRel\n{step - 1},1.0,\n{step},,0.2\n")
    (folder / "lower_is_better.json").write_text('["far/AbsRel"]')
    return folder


pytestmark = pytest.mark.usefixtures("cwd")


@pytest.fixture
def runs() -> list[str]:
    """Three seeds of one backbone and one of another."""
    write_run(Path("a0"), 0.1, 0.9, seed=0)
    write_run(Path("a1"), 0.2, 0.8, seed=1, workers=8)
    write_run(Path("a2"), 0.3, 0.9, seed=2)
    write_run(Path("b0"), 0.15, 0.8, backbone="swin", parameters="28,000,000")
    return ["a0", "a1", "a2", "b0"]


def table(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """What the command prints."""
    assert main(["report", *arguments]) == 0
    return capsys.readouterr().out


def test_runs_that_differ_in_their_seed_are_one_row(runs: list[str], capsys):
    """0.1, 0.2, 0.3: mean 0.2, deviation 0.1. 0.9, 0.8, 0.9: mean 0.86667; the sum of squared deviations, 0.00667, over
    n - 1 = 2 is 0.00333, its root 0.0577. 1,200 steps of 16 images are 19,200."""
    assert table(capsys, *runs, "--table", "md").splitlines() == [
        HEADER,
        RULE,
        "| my_net | 1.63 | 19,200 | 12.00 | 3 | 0.2000 ± 0.1000 | **0.8667 ± 0.0577** |",
        "| swin | 28.00 | 19,200 | 12.00 | 1 | **0.1500** | 0.8000 |",
        "",
        CAPTION,
    ]


def test_runs_of_different_data_or_protocols_are_not_averaged(cwd: Path, runs: list[str], capsys):
    """Of two rows of one backbone, the column has the folders' names. Numbers are bold among runs of the same data."""
    write_run(Path("c"), 0.05, 0.95, seed=3, split="test")
    write_run(Path("d"), 0.25, 0.85, seed=4, lr=0.2)
    assert table(capsys, "a0", "a1", "c", "d", "--table", "md").splitlines() == [
        HEADER.replace("backbone", "run"),
        RULE,
        "| a0 | 1.63 | 19,200 | 12.00 | 2 | **0.1500 ± 0.0707** | 0.8500 ± 0.0707 |",
        "| c | 1.63 | 19,200 | 12.00 | 1 | 0.0500 | 0.9500 |",
        "| d | 1.63 | 19,200 | 12.00 | 1 | 0.2500 | 0.8500 |",
        "",
        CAPTION,
        "",
        "The runs were evaluated on different data (data.val_split). The best number is bold only among runs of the "
        "same data and split.",
        "",
        "The rows also differ in optim.lr.",
    ]
    write_run(Path("a3"), 0.1, 0.9, seed=5, parameters="1,629,482")
    write_run(Path("a4"), None, 0.9, seed=6, root=cwd / "nyu")
    printed = table(capsys, "a0", "a3", "a4", "--table", "md")
    assert "The rows also differ in parameters." in printed and "| 2 | – |" in printed


def test_unfinished_runs_are_left_out(runs: list[str], capsys):
    write_run(Path("c"), 0.1, 0.9, seed=5, step=600)
    write_run(Path("d"), 0.1, 0.9, seed=6)
    Path("d/metrics.csv").unlink()
    write_run(Path("e"), 0.1, 0.9, seed=7)
    Path("e/metrics.json").write_text("{}")
    assert main(["report", *runs, "c", "d", "e", "--table", "md"]) == 0
    out, err = capsys.readouterr()
    assert "| my_net | 1.63 | 19,200 | 12.00 | 3 |" in out
    first, second, third = err.splitlines()
    assert first == "c: is left out: its metrics.csv ends at step 600 of 1,200. To finish it: densevit train --resume c"
    assert second.startswith("d: is left out: its metrics.csv ends at step 0 of")
    assert third == "e: is left out: its metrics.json has no metrics. Fix: train with heads and an evaluation."
    assert main(["report", "c", "--table", "md"]) == 2 and capsys.readouterr() == ("", f"{first}\n")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["a1", "again"], "again: has the config and the seed of a1, 1. Fix: name one of the two, or train with"),
        (["by_hand"], "by_hand/config.yaml: is not the config of a run, with a seed, a backbone, data, and"),
        (["nothing"], "nothing: has none of config.yaml"),
        (["evaluated"], "evaluated: is the folder of an evaluation. Fix: name the folder of a run."),
        (["damaged"], "damaged/metrics.json: expected metrics as a JSON object of numbers"),
        (["a0", "--out", "a1"], "--out a1: is a folder. Expected a file, such as a1/table.md."),
    ],
)
def test_invalid_input_is_an_error(given: list[str], message: str, runs: list[str], run):
    Path("nothing").mkdir()
    for name in ("again", "by_hand", "evaluated", "damaged"):
        write_run(Path(name), 0.1, 0.9, seed=1)
    Path("by_hand/config.yaml").write_text("backbone: {name: swin}\n")
    Path("evaluated/evaluation.json").write_text("{}")
    Path("damaged/metrics.json").write_text("[")
    assert run("report", *given, "--table", "md", code=2).startswith(message)
