"""Several processes train one model: the same files, each image evaluated once."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from densevit.cli import main
from tests.training.test_run import TINY

DOUBLE = ["trainer.devices=2", "trainer.strategy=ddp", "trainer.max_epochs=1", "data.val_length=5"]


def densevit(*arguments: str, folder: Path) -> str:
    """What a command prints, run in a folder."""
    command = [sys.executable, "-m", "densevit", *arguments]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.skipif(sys.platform == "win32", reason="gloo over Lightning's launcher is for Linux and macOS")
def test_two_processes_leave_what_one_process_confirms(tmp_path: Path) -> None:
    (tmp_path / "tiny.yaml").write_text(TINY)
    printed = densevit("train", "tiny.yaml", *DOUBLE, "--run-dir", "run", folder=tmp_path)
    assert "2 x cpu" in printed
    assert printed.count("model.safetensors") == 1  # one process speaks for all
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
