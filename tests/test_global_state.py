"""Calls that read stdin, import, compile or print leave the process as it is."""

import io
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import cv2  # noqa: F401  # its first import sets a variable of the environment
import pytest
import rich

import densevit
from densevit import registry
from densevit.cli import main
from densevit.terminal import show
from tests.global_state import changed, global_state


def read_a_list() -> None:
    """Of images, before the model is looked up."""
    assert main(["predict", "nowhere", "-"]) == 2


def run_a_command_beside_other_work() -> None:
    """More threads run than there are cores, so a new process would shorten the waits of OpenMP."""
    busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(os.cpu_count() or 1)]
    try:
        assert main(["predict", "nowhere", "a.png"]) == 2
    finally:
        for process in busy:
            process.kill()
            process.wait()


def import_a_class() -> None:
    Path("walked_net.py").write_text("import densevit\nclass Own(densevit.Backbone):\n    pass\n")
    registry.load("backbones", "walked_net:Own")


def compile_a_model() -> None:
    densevit.create_model("resnet", {"surfaces": "setr"}, ["road"]).compile(backend="eager")


def print_a_text() -> None:
    show("[red]", rich.get_console())


@pytest.mark.parametrize(
    "action", [read_a_list, run_a_command_beside_other_work, import_a_class, compile_a_model, print_a_text]
)
def test_the_process_is_as_before(action: Callable[[], None], cwd: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("a.png\n"))
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry not in ("", str(cwd))])
    before = global_state()
    action()
    assert [name for name in changed(before) if name != "torch"] == []  # a new model takes random numbers


@pytest.mark.integration
def test_the_first_use_of_a_public_name_draws_no_random_numbers() -> None:
    code = "import random, densevit; state = random.getstate(); [getattr(densevit, x) for x in densevit.__all__]"
    subprocess.run([sys.executable, "-c", f"{code}; assert random.getstate() == state"], check=True)
