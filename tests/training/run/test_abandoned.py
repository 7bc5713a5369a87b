"""Resuming from an earlier checkpoint: the files of the steps after it are moved, and none is lost."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.training.process_groups import group, linux
from tests.training.runs import assert_same, resume, rows

LATER = {"report.html", "predictions/0.jpg", "faults/step_00000007.pt", "faults/step_00000007_rank1.pt"}
OF_BEST = {"model.safetensors", "metrics.json", "confusion-x.csv", "plots.json", "lower_is_better.json"}
METADATA = "meta.pt"  # of a sharded checkpoint, in Lightning


def move_abandoned(run: Path, checkpoint: str, step: int) -> Any:
    from densevit.training.run import abandoned

    return abandoned.move_abandoned(run, run / "checkpoints" / checkpoint, step)


def make_checkpoint(path: Path, step: int, sharded: bool) -> None:
    if sharded:
        path.mkdir()
        torch.save({"global_step": step}, path / METADATA)
        (path / "part.distcp").write_bytes(bytes([step]))
    else:
        torch.save({"global_step": step}, path)


def make_run(run: Path, best: int, sharded: bool = False) -> Path:
    """A run of 8 steps with a checkpoint every two steps and these files only. best: the step of the model."""
    (run / "checkpoints").mkdir(parents=True)
    for step in (2, 4, 6, 8):
        make_checkpoint(run / "checkpoints" / (f"step-{step}.ckpt" if step < 8 else "last.ckpt"), step, sharded)
    for name in (*LATER, *OF_BEST, "config.yaml", "metrics.csv", "faults/step_00000003.pt", "notes.txt"):
        (run / name).parent.mkdir(exist_ok=True)
        (run / name).write_text(name)
    save_file({"x": torch.zeros(1)}, run / "model.safetensors", {"step": str(best)})
    return run


def contents(folder: Path) -> dict[str, bytes]:
    """The files of a folder without those that are abandoned."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    names = {str(path.relative_to(folder)): path for path in files}
    return {name: path.read_bytes() for name, path in names.items() if not name.startswith("abandoned/")}


def step_of_last(run: Path) -> int:
    """The step from which `--resume RUN` goes on."""
    last, previous = run / "checkpoints" / "last.ckpt", run / "checkpoints" / "last.previous"
    path = last if last.exists() or not previous.is_dir() else previous
    return int(torch.load(path / METADATA if path.is_dir() else path, weights_only=True)["global_step"])


@pytest.mark.parametrize("best", [4, 6])
def test_files_of_later_steps_are_moved(best: int, tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", best)
    before = contents(run)
    assert move_abandoned(run, "step-4.ckpt", 4) == run / "abandoned" / "1"
    moved = LATER | {"checkpoints/step-6.ckpt"} | (OF_BEST if best > 4 else set())
    copied = {"config.yaml", "metrics.csv", "checkpoints/last.ckpt"}
    first = contents(run / "abandoned" / "1")
    assert first == {name: before[name] for name in moved | copied}
    last = {"checkpoints/last.ckpt": before["checkpoints/step-4.ckpt"]}
    assert contents(run) == {name: x for name, x in before.items() if name not in moved} | last
    again = contents(run)
    for checkpoint in ("last.ckpt", "step-4.ckpt"):
        assert move_abandoned(run, checkpoint, 4) is None
    assert contents(run) == again

    make_checkpoint(run / "checkpoints" / "step-5.ckpt", 5, False)  # a second abandonment has a folder of its own
    assert move_abandoned(run, "step-2.ckpt", 2) == run / "abandoned" / "2"
    assert contents(run / "abandoned" / "1") == first
    assert step_of_last(run) == 2 and step_of_last(run / "abandoned" / "2") == 4
    names = {"step-4.ckpt", "step-5.ckpt", "last.ckpt"}
    assert {path.name for path in (run / "abandoned" / "2" / "checkpoints").iterdir()} == names


def test_a_model_saved_before_the_kill_and_a_damaged_checkpoint_are_moved(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", 9)
    before = contents(run)
    assert move_abandoned(run, "last.ckpt", 8) == run / "abandoned" / "1"
    assert contents(run) == {name: x for name, x in before.items() if name not in OF_BEST}
    run = make_run(tmp_path / "damaged", 6)
    (run / "checkpoints" / "last.ckpt").write_text("damaged")
    assert move_abandoned(run, "step-6.ckpt", 6) == run / "abandoned" / "1"
    assert (run / "abandoned" / "1" / "checkpoints" / "last.ckpt").read_text() == "damaged"
    assert step_of_last(run) == 6 and (run / "model.safetensors").exists()


@pytest.mark.parametrize("sharded", [False, True])
def test_a_run_killed_at_any_operation_resumes_and_keeps_all_files(sharded, tmp_path, monkeypatch):
    """Each operation on files in turn raises instead, like a kill before it."""
    left = [0]

    def counted(operation: Callable[..., Any]) -> Callable[..., Any]:
        def count(*args: Any, **kwargs: Any) -> Any:
            if not left[0]:
                raise KeyboardInterrupt
            left[0] -= 1
            return operation(*args, **kwargs)

        return count

    with monkeypatch.context() as patch:
        for where, name in ((os, "link"), (shutil, "copyfile"), (Path, "rename"), (Path, "replace"), (Path, "mkdir")):
            patch.setattr(where, name, counted(getattr(where, name)))
        for number in range(100):
            left[0] = 1000
            run = make_run(tmp_path / str(number), 6, sharded)
            before = contents(run)
            left[0] = number
            try:
                move_abandoned(run, "step-4.ckpt", 4)
            except KeyboardInterrupt:
                left[0] = 1000
            else:
                break
            assert step_of_last(run) in (4, 8)
            files = [path.read_bytes() for path in run.rglob("*") if path.is_file()]
            assert set(before.values()) <= set(files)
            move_abandoned(run, "step-4.ckpt", 4)
            assert step_of_last(run) == 4
            later = LATER | OF_BEST | {name for name in before if name.startswith("checkpoints/step-6")}
            names = {name.replace("last.previous", "last.ckpt") for name in contents(run)}
            assert names == before.keys() - later
            [folder] = (run / "abandoned").iterdir()
            assert folder.name == "1" and later <= contents(folder).keys() and step_of_last(folder) == 8
    assert number > 10


CONFIG = """
backbone: {name: vit, variant: nano, drop_path: 0.0}
heads: {x: {name: setr, width: 8, norm: group, evaluation: null}}
data: {name: scenes, train_length: 4, val_length: 2, image_size: 32, batch_size: 4, num_workers: 0, transforms: resize}
optim: {lr: 1e-3, schedule: constant}
trainer: {max_steps: 8, precision: "32", accelerator: cpu, evaluate_every: 0.25, keep_checkpoints: 4}
"""


@pytest.mark.integration
def test_the_best_epoch_is_that_of_the_checkpoint(copied_run, trained):
    """As if the run had ended at the checkpoint: the averaged model of the best epoch is restored from it."""
    run = copied_run(CONFIG, overrides := ["trainer.ema=0.5"])
    abandoned = load_file(run / "model.safetensors")
    resume(run / "checkpoints" / "step-4.ckpt", ["optim.lr=30"])  # later validations are worse than all before
    short = trained(CONFIG, [*overrides, "trainer.max_steps=4", "trainer.evaluate_every=0.5"])
    assert (run / "metrics.json").read_text() == (short / "metrics.json").read_text()
    assert_same(load_file(run / "model.safetensors"), load_file(short / "model.safetensors"))
    assert_same(load_file(run / "abandoned" / "1" / "model.safetensors"), abandoned)
    for folder in (run, run / "abandoned" / "1"):
        assert [row["step"] for row in rows(folder) if row.get("x/loss")] == ["2", "4", "6", "8"]
    assert not (run / "abandoned" / "2").exists()


@pytest.mark.integration
def test_a_resume_that_trains_nothing_changes_no_file(copied_run: Callable[..., Path]) -> None:
    def state_of(folder: Path) -> dict[str, tuple[bytes, int]]:
        files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
        return {str(path.relative_to(folder)): (path.read_bytes(), path.stat().st_mtime_ns) for path in files}

    run = copied_run(CONFIG)
    before = state_of(run)
    resume(run, ["trainer.log_every=7"])
    resume(run / "checkpoints" / "step-4.ckpt", ["trainer.max_steps=4"])
    assert state_of(run) == before


@pytest.mark.integration
@linux
def test_the_first_of_two_processes_moves_the_files(tmp_path: Path, copied_run: Callable[..., Path]) -> None:
    run = copied_run(CONFIG)
    two = ["trainer.devices=2", "trainer.strategy=ddp", "trainer.max_steps=6", "data.batch_size=2"]
    commands = group("train", "--resume", str(run / "checkpoints" / "step-4.ckpt"), *two, folder=tmp_path)
    for process in [command.ended() for command in commands]:
        assert process.code == 0, process.errors
    assert [path.name for path in (run / "abandoned").iterdir()] == ["1"]
    assert step_of_last(run) == 6 and step_of_last(run / "abandoned" / "1") == 8
