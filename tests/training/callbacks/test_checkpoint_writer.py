"""densevit/training/callbacks/checkpoint_writer.py: checkpoints before the last are kept, pruned and offered."""

import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from densevit.cli import main
from tests.training.run.test_resume_safely import TINY

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("no_drawings")]
EACH_STEP = [
    "data.train_length=12",
    "trainer.checkpoint_every=1",
    "trainer.evaluate_every_epochs=1",
    "trainer.loggers=[]",
]


def steps_in(run: Path) -> dict[str, int]:
    files = sorted((run / "checkpoints").iterdir())
    return {file.name: torch.load(file, weights_only=True)["global_step"] for file in files}


@pytest.mark.parametrize(("keep", "expected"), [("2", {3}), ("1", set()), ("null", {1, 2, 3})])
def test_the_given_number_of_checkpoints_is_kept(keep: str, expected: set[int], trained: Callable[..., Path]) -> None:
    run = trained(TINY, [*EACH_STEP, "trainer.max_steps=4", f"trainer.keep_checkpoints={keep}"])
    assert steps_in(run) == {"last.ckpt": 4, **{f"step-{step}.ckpt": step for step in expected}}


@pytest.fixture
def run(copied_run: Callable[..., Path]) -> Path:
    """A run of three steps with the checkpoints of all of them."""
    return copied_run(TINY, [*EACH_STEP, "trainer.max_steps=3", "trainer.keep_checkpoints=3"])


def cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-2000])


def one_bit_flipped(path: Path) -> None:
    """In the largest tensor, where only the checksum shows it."""
    with zipfile.ZipFile(path) as archive:
        part = max(archive.infolist(), key=lambda info: info.file_size)
    content = bytearray(path.read_bytes())
    content[part.header_offset + len(part.filename) + 500] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("damage", [cut_short, one_bit_flipped, Path.unlink], ids=lambda f: f.__name__)
def test_a_damaged_last_checkpoint_is_recognised_and_the_one_before_offered(damage, run, capsys):
    damage(run / "checkpoints" / "last.ckpt")
    assert main(["train", "--resume", str(run)]) != 0
    before = run / "checkpoints" / "step-2.ckpt"
    [line] = [line for line in capsys.readouterr().err.splitlines() if "last.ckpt" in line]
    assert line.endswith(
        f"resume from the checkpoint of step 2: densevit train --resume {before} --run-dir {run}-from-2."
    )
