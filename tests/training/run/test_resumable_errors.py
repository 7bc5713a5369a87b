"""densevit/training/run/resumable_errors.py: errors in a training are one line with the fix."""

from pathlib import Path
from unittest.mock import Mock

import pytest
import torch
import yaml

import densevit
from densevit.errors import TrainingError, UnreadableFileError
from densevit.interfaces import Sample
from tests.training.loop.test_finite_check import POISONED
from tests.training.poisoned import Greys, Poison

CUDA = (
    "CUDA out of memory. Tried to allocate 2.53 GiB. GPU 0 has a total capacity of 15.77 GiB of which 1.36 GiB is free."
    " Including non-PyTorch memory, this process has 14.40 GiB memory in use."
)
CPU = (
    "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 "
    "bytes. Error code 12 (Cannot allocate memory)"
)


@pytest.mark.parametrize("error", [torch.OutOfMemoryError(CUDA), RuntimeError(CPU)], ids=["GPU", "CPU"])
def test_full_memory_is_one_line_with_the_fix(error, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "tiny.yaml").write_text(POISONED)
    monkeypatch.setattr(Poison, "forward", Mock(side_effect=error))
    with pytest.raises(TrainingError) as raised:
        densevit.fit(tmp_path / "tiny.yaml", ["data.batch_size=2", "trainer.accumulate=3"], run_dir=tmp_path / "r")
    said = str(raised.value)
    assert said.startswith("The memory is full with data.batch_size=2. Fix: set data.batch_size=1 with ")
    assert "trainer.accumulate=6, " in said and "trainer.precision=bf16-mixed" in said and "\n" not in said
    assert not (tmp_path / "r").exists()  # before its first step


class Lost(Greys):
    """Without its images once this file exists."""

    def __init__(self, split: str, file: str) -> None:
        super().__init__(split)
        self.file = Path(file)

    def __getitem__(self, index: int) -> Sample:
        if self.file.exists():
            raise UnreadableFileError("photos/7.png: there is no such file.")
        return super().__getitem__(index)


@pytest.mark.integration
def test_image_that_is_lost_in_training_is_named_with_the_command_to_resume(tmp_path):
    """Deleted, or cut short, after the first checkpoint; in a process of the loader."""
    run, values = tmp_path / "run", yaml.safe_load(POISONED)
    values["data"] |= {"name": f"{__name__}:Lost", "file": str(run / "checkpoints" / "last.ckpt"), "num_workers": 1}
    given = ["trainer.checkpoint_every=1", "trainer.max_steps=40", "backbone.where=nowhere"]
    with pytest.raises(UnreadableFileError) as raised:
        densevit.fit(values, given, run_dir=run)
    assert str(raised.value) == (
        f"photos/7.png: there is no such file. Resume from the last checkpoint with: densevit train --resume {run}"
    )
