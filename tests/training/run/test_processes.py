"""Training with several processes: the same files, each image evaluated once."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import densevit
from densevit import config as configs
from densevit.cli import main
from densevit.errors import ConfigError
from tests.training.process_groups import (
    Ended,
    group,
    linux,
    run_together,
    started_by_slurm,
    started_by_torchrun,
)
from tests.training.runs import SMALL, assert_same, recorded, train, weights, without_report

pytestmark = [pytest.mark.integration, linux]

DOUBLE = ["trainer.devices=2", "trainer.strategy=ddp", "trainer.max_steps=2"]
KILLED = ["trainer.devices=2", "trainer.strategy=ddp", "trainer.max_steps=18", "trainer.evaluations=1"]


def started(*arguments: str, folder: Path, errors: Path | None = None) -> "subprocess.Popen[bytes]":
    """`python -m ARGUMENTS` in a folder and a session of its own."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}  # the last bit of a sum depends on the number of threads
    with open(errors or os.devnull, "w") as said:
        return subprocess.Popen(
            [sys.executable, "-m", *arguments], cwd=folder, env=environment, stdout=subprocess.DEVNULL, stderr=said,
            start_new_session=True,
        )  # fmt: skip


@pytest.mark.usefixtures("tiny")
def test_fewer_validation_images_than_processes(tmp_path: Path) -> None:
    said = run_together("train", "tiny.yaml", *DOUBLE, "data.val_length=1", "--run-dir", "run", folder=tmp_path)
    assert "2 x cpu" in said.output and said.output.count("model.safetensors") == 1
    alone = ["trainer.devices=1", "trainer.strategy=auto"]
    assert main(["evaluate", str(tmp_path / "run"), *alone, "--out", str(tmp_path / "alone")]) == 0
    metrics = [json.loads((tmp_path / name / "metrics.json").read_text()) for name in ("run", "alone")]
    assert metrics[0] == metrics[1]


@pytest.mark.usefixtures("small", "no_drawings")
@pytest.mark.parametrize("launcher", [started_by_torchrun, started_by_slurm])
def test_launcher_processes_share_a_folder_with_a_late_rank(launcher, tmp_path):
    # A value left by a training in another process is ignored by the launcher's processes.
    other = {"DENSEVIT_RUN_DIR": f"{os.getpid()} {tmp_path / 'other'}"}

    def run(*extra: str) -> list[Ended]:
        environment = {"launcher": lambda rank: launcher(rank) | other, "delay": 1.5}
        commands = group("train", "small.yaml", *DOUBLE, *extra, folder=tmp_path, **environment)
        return [command.ended() for command in commands]

    for process in run():
        assert process.code == 0, process.errors
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["small"]
    assert (tmp_path / "runs" / "small" / "metrics.json").is_file()
    for process in run("--run-dir", "runs/small"):  # all processes raise the error of the first
        assert process.code == 2 and "--run-dir runs/small: is not empty" in process.errors


# ---- kills ----


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two processes that nothing interrupts."""
    folder = tmp_path_factory.mktemp("whole")
    (folder / "small.yaml").write_text(SMALL)
    with without_report():
        run_together("train", "small.yaml", *KILLED, "--run-dir", "run", folder=folder)
    return folder / "run"


def wait_for_checkpoint(run: Path) -> None:
    end = time.monotonic() + 200
    while not (run / "checkpoints" / "last.ckpt").exists() and time.monotonic() < end:
        time.sleep(0.02)


def assert_says(errors: str, start: str) -> None:
    [line] = [line for line in errors.splitlines() if not line.startswith(("warning: ", "[rank"))]
    assert line.startswith(start), line
    assert "Resume from the last checkpoint with: densevit train --resume " in line


def assert_resumes_exactly(folder: Path, whole: Path) -> None:
    """Dropout and denoising queries differ between the processes: each resumes its own random state."""
    run_together("train", "--resume", "killed", folder=folder)
    assert_same(weights(whole), weights(folder / "killed"))
    assert recorded(whole) == recorded(folder / "killed")


@pytest.mark.usefixtures("small", "no_drawings")
def test_killed_child_ends_its_launcher_and_resuming_is_exact(tmp_path: Path, whole: Path) -> None:
    said = tmp_path / "said"
    process = started("densevit", "train", "small.yaml", *KILLED, "--run-dir", "killed", folder=tmp_path, errors=said)
    wait_for_checkpoint(tmp_path / "killed")
    children = subprocess.run(["pgrep", "-P", str(process.pid)], capture_output=True, text=True).stdout.split()
    training, *_ = [int(pid) for pid in children if b"densevit" in Path(f"/proc/{pid}/cmdline").read_bytes()]
    os.kill(training, signal.SIGKILL)
    assert process.wait(timeout=60) == 2
    assert_says(said.read_text(), "Another of 2 processes has ended")
    assert_resumes_exactly(tmp_path, whole)


def test_several_nodes_require_an_address(tiny: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"trainer\.num_nodes=2: the address of .* is unknown.*torchrun"):
        train(configs.load(tiny, ["trainer.num_nodes=2", "trainer.strategy=ddp"]), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_metrics_are_those_of_the_batch_norms_that_are_saved(tmp_path: Path) -> None:
    """Each process has other statistics after a step; the model file has the first's."""
    data = ("data.train_length=40", "data.val_length=7", "data.batch_size=4")
    trainer = ("trainer.max_images=32", "trainer.devices=2", "trainer.accelerator=cpu", "trainer.precision=32")
    run_together("train", "scenes/setr_swin", *data, *trainer, "--run-dir", "run", folder=tmp_path)
    alone = densevit.evaluate(tmp_path / "run", overrides={"trainer.devices": 1})
    assert (
        json.loads((tmp_path / "run" / "metrics.json").read_text())["segmentation/mIoU"] == alone["segmentation/mIoU"]
    )
    assert any(name.endswith("running_var") for name in densevit.load(tmp_path / "run").state_dict())
