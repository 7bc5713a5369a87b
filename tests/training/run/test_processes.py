"""Training with several processes: the same files, each image evaluated once."""

import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from densevit import config as configs
from densevit.cli import main
from densevit.errors import ConfigError
from tests.training.run.test_run import TINY, recorded
from tests.training.run.test_signals import SMALL
from tests.training.runs import train

pytestmark = pytest.mark.integration

DOUBLE = ["trainer.devices=2", "trainer.strategy=ddp", "trainer.max_epochs=1", "data.val_length=5"]


def densevit(*arguments: str, folder: Path) -> str:
    """Runs a command in a folder, with one thread per process, and returns its output."""
    command = [sys.executable, "-m", "densevit", *arguments]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}  # the last bit of a sum depends on the number of threads
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300, env=environment)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.skipif(sys.platform == "win32", reason="gloo over Lightning's launcher is for Linux and macOS")
def test_metrics_of_two_processes_match_one(tmp_path: Path) -> None:
    (tmp_path / "tiny.yaml").write_text(TINY)
    printed = densevit("train", "tiny.yaml", *DOUBLE, "--run-dir", "run", folder=tmp_path)
    assert "2 x cpu" in printed
    assert printed.count("model.safetensors") == 1  # printed by one process only
    trained = json.loads((tmp_path / "run" / "metrics.json").read_text())
    # The run's config asks for two processes in evaluation too; the numbers are also those of one process alone.
    for name, alone in {"together": [], "alone": ["trainer.devices=1", "trainer.strategy=auto"]}.items():
        densevit("evaluate", "run", *alone, "--out", name, folder=tmp_path)
        assert json.loads((tmp_path / name / "metrics.json").read_text()) == trained


@pytest.mark.skipif(sys.platform == "win32", reason="gloo over Lightning's launcher is for Linux and macOS")
def test_fewer_validation_images_than_processes(tmp_path: Path) -> None:
    (tmp_path / "tiny.yaml").write_text(TINY)
    densevit("train", "tiny.yaml", *DOUBLE, "data.val_length=1", "--run-dir", "run", folder=tmp_path)
    alone = ["trainer.devices=1", "trainer.strategy=auto"]
    assert main(["evaluate", str(tmp_path / "run"), *alone, "--out", str(tmp_path / "alone")]) == 0
    metrics = [json.loads((tmp_path / name / "metrics.json").read_text()) for name in ("run", "alone")]
    assert metrics[0] == metrics[1]


LATE = """
import os, sys, time
if os.environ.get("RANK", os.environ.get("SLURM_PROCID")) == "1":
    time.sleep(1.5)
from densevit.cli import main
sys.exit(main(sys.argv[1:]))
"""


def started_by_torchrun(rank: int) -> dict[str, str]:
    return {
        "RANK": str(rank), "LOCAL_RANK": str(rank), "GROUP_RANK": "0", "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2",
        "TORCHELASTIC_RUN_ID": "test",
    }  # fmt: skip


def started_by_slurm(rank: int) -> dict[str, str]:
    return {
        "SLURM_JOB_ID": "17", "SLURM_JOB_NAME": "train", "SLURM_NTASKS": "2", "SLURM_NTASKS_PER_NODE": "2",
        "SLURM_PROCID": str(rank), "SLURM_LOCALID": str(rank), "SLURM_NODEID": "0", "SLURM_NODELIST": "localhost",
    }  # fmt: skip


@pytest.mark.skipif(sys.platform != "linux", reason="gloo")
@pytest.mark.parametrize("launcher", [started_by_torchrun, started_by_slurm])
def test_launcher_processes_share_a_folder_with_a_late_rank(
    launcher: Callable[[int], dict[str, str]], tmp_path: Path
) -> None:
    (tmp_path / "tiny.yaml").write_text(TINY)
    overrides = ["trainer.devices=2", "trainer.strategy=ddp", "trainer.max_steps=2"]

    def run(*extra: str) -> list[tuple[int, str, str]]:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = str(free.getsockname()[1])
        # A value left by a training in this process is ignored by the launcher's processes.
        chosen = f"{os.getpid()} {tmp_path / 'other'}"
        shared = {
            **os.environ,
            "DENSEVIT_RUN_DIR": chosen,
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": port,
            "OMP_NUM_THREADS": "1",
        }
        command = [sys.executable, "-c", LATE, "train", "tiny.yaml", *overrides, *extra]
        ranks = [
            subprocess.Popen(
                command, cwd=tmp_path, env={**shared, **launcher(rank)}, text=True,
                stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            )
            for rank in range(2)
        ]  # fmt: skip
        try:
            printed = [rank.communicate(timeout=200) for rank in ranks]
        finally:
            for rank in ranks:
                rank.kill()
        return [(rank.returncode, *texts) for rank, texts in zip(ranks, printed, strict=True)]

    for code, _, errors in run():
        assert code == 0, errors
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["tiny"]
    assert (tmp_path / "runs" / "tiny" / "metrics.json").is_file()
    for code, _, errors in run("--run-dir", "runs/tiny"):  # all processes raise the error of the first
        assert code == 2 and "--run-dir runs/tiny: is not empty" in errors


KILLED = ["trainer.devices=2", "trainer.strategy=ddp", "trainer.max_steps=24", "trainer.evaluate_every=0.99"]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two processes that nothing interrupts."""
    folder = tmp_path_factory.mktemp("whole")
    (folder / "small.yaml").write_text(SMALL)
    densevit("train", "small.yaml", *KILLED, "--run-dir", "run", folder=folder)
    return folder / "run"


@pytest.mark.skipif(sys.platform != "linux", reason="gloo, and signals as Linux has them")
@pytest.mark.parametrize("victim", [0, 1])
def test_killed_process_ends_the_others_and_resuming_is_exact(tmp_path: Path, victim: int, whole: Path) -> None:
    """Dropout and denoising queries differ between the processes: each resumes its own random state."""
    (tmp_path / "small.yaml").write_text(SMALL)
    command = [sys.executable, "-m", "densevit", "train", "small.yaml", *KILLED, "--run-dir", "killed"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with (tmp_path / "said").open("w") as said:
        process = subprocess.Popen(command, cwd=tmp_path, env=environment, stderr=said, stdout=subprocess.DEVNULL)
        end = time.monotonic() + 200
        while not (tmp_path / "killed" / "checkpoints" / "last.ckpt").exists() and time.monotonic() < end:
            time.sleep(0.02)
        second = child_of(process.pid)
        os.kill(second if victim else process.pid, signal.SIGKILL)
        began = time.monotonic()
        code = process.wait(timeout=60)
        while is_running(second):
            assert time.monotonic() - began < 30
            time.sleep(0.1)
    assert code == (2 if victim else -signal.SIGKILL)
    [line] = [line for line in (tmp_path / "said").read_text().splitlines() if not line.startswith("warning: ")]
    how = "was killed by SIGKILL" if victim else "has ended"
    assert line.startswith(f"Process {victim} of 2 (counted from 0) {how}"), line
    assert "Resume from the last checkpoint with: densevit train --resume " in line
    densevit("train", "--resume", "killed", folder=tmp_path)
    runs = (whole, tmp_path / "killed")
    states = [torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"] for run in runs]
    for name, value in states[0].items():
        assert torch.equal(value, states[1][name]), name
    assert recorded(runs[0]) == recorded(runs[1])


RANDOM_KILLS = 3


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="gloo, and signals as Linux has them")
@pytest.mark.parametrize("strategy", ["ddp", "fsdp2"])
def test_both_processes_killed_at_random_moments_resume_exactly(tmp_path: Path, strategy: str) -> None:
    """From the creation of the folder to the end: before the config, before the first checkpoint, and later."""
    (tmp_path / "small.yaml").write_text(SMALL)
    given = [*KILLED, f"trainer.strategy={strategy}"]
    densevit("train", "small.yaml", *given, "--run-dir", "whole", folder=tmp_path)
    environment, moments = {**os.environ, "OMP_NUM_THREADS": "1"}, random.Random(0)
    run, kills = tmp_path / "killed", 0
    while True:
        # The script for SLURM in docs/multi-gpu.md
        is_begun = (run / "config.yaml").exists()
        arguments = ["--resume", "killed"] if is_begun else ["small.yaml", *given, "--run-dir", "killed"]
        process = subprocess.Popen(
            [sys.executable, "-m", "densevit", "train", *arguments], cwd=tmp_path, env=environment,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip
        end = time.monotonic() + 100
        while kills < RANDOM_KILLS and not run.exists() and process.poll() is None and time.monotonic() < end:
            time.sleep(0.01)
        try:
            assert process.wait(moments.uniform(0, 5) if kills < RANDOM_KILLS else 300) == 0
            break
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            kills += 1
    assert kills == RANDOM_KILLS
    assert recorded(tmp_path / "whole") == recorded(run)
    models = [load_file(folder / "model.safetensors") for folder in (tmp_path / "whole", run)]
    assert all(torch.equal(x, models[1][name]) for name, x in models[0].items())


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="gloo, and signals as Linux has them")
def test_torchrun_stopped_by_sigterm_resumes_exactly(tmp_path: Path, whole: Path, free_port: int) -> None:
    (tmp_path / "small.yaml").write_text(SMALL)
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", str(free_port)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}

    def start(*arguments: str) -> "subprocess.Popen[bytes]":
        return subprocess.Popen(
            [*torchrun, "-m", "densevit", "train", *arguments], cwd=tmp_path, env=environment,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip

    process = start("small.yaml", *KILLED, "--run-dir", "run")
    last, end = tmp_path / "run" / "checkpoints" / "last.ckpt", time.monotonic() + 200
    while not last.exists() and time.monotonic() < end:
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    assert process.wait(100) != 0
    assert 3 <= torch.load(last, weights_only=True)["global_step"] < 24
    assert start("--resume", "run").wait(200) == 0
    assert recorded(whole) == recorded(tmp_path / "run")
    states = [torch.load(run / "checkpoints" / "last.ckpt", weights_only=True) for run in (whole, tmp_path / "run")]
    assert all(torch.equal(x, states[1]["state_dict"][name]) for name, x in states[0]["state_dict"].items())


def child_of(process: int) -> int:
    """The child process that trains."""
    children = subprocess.run(["pgrep", "-P", str(process)], capture_output=True, text=True).stdout.split()
    return next(int(pid) for pid in children if b"densevit" in Path(f"/proc/{pid}/cmdline").read_bytes())


def is_running(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except FileNotFoundError:
        return False


def test_several_nodes_require_an_address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MASTER_ADDR", raising=False)
    (tmp_path / "tiny.yaml").write_text(TINY)
    with pytest.raises(
        ConfigError, match=r"trainer\.num_nodes=2: the address of the other machines is unknown.*torchrun"
    ):
        train(configs.load(tmp_path / "tiny.yaml", ["trainer.num_nodes=2", "trainer.strategy=ddp"]), tmp_path / "run")
    assert not (tmp_path / "run").exists()
