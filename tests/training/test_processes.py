"""Several processes train one model: the same files, each image evaluated once."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.training.test_run import TINY

DOUBLE = ["trainer.devices=2", "trainer.strategy=ddp", "trainer.max_epochs=1", "data.val_length=5"]


@pytest.mark.skipif(sys.platform == "win32", reason="gloo over Lightning's launcher is for Linux and macOS")
def test_two_processes_leave_what_one_process_confirms(tmp_path: Path) -> None:
    (tmp_path / "tiny.yaml").write_text(TINY)
    run = tmp_path / "run"
    command = [sys.executable, "-m", "densevit"]
    trained = subprocess.run(
        [*command, "train", "tiny.yaml", *DOUBLE, "--run-dir", str(run)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert trained.returncode == 0, trained.stderr
    assert "2 x cpu" in trained.stdout
    assert trained.stdout.count("model.safetensors") == 1  # one process speaks for all
    evaluated = subprocess.run(
        [*command, "evaluate", str(run), "--out", str(tmp_path / "evaluated")],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert evaluated.returncode == 0, evaluated.stderr
    # The config asks for two processes here as well; the numbers are those of training, and of one process alone.
    assert json.loads((tmp_path / "evaluated" / "metrics.json").read_text()) == json.loads(
        (run / "metrics.json").read_text()
    )
    alone = subprocess.run(
        [
            *command,
            "evaluate",
            str(run),
            "trainer.devices=1",
            "trainer.strategy=auto",
            "--out",
            str(tmp_path / "alone"),
        ],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert alone.returncode == 0, alone.stderr
    assert json.loads((tmp_path / "alone" / "metrics.json").read_text()) == json.loads(
        (run / "metrics.json").read_text()
    )
