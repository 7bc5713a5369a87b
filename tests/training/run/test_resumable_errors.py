"""densevit/training/run/resumable_errors.py: errors in a training are one line with the fix."""

from pathlib import Path
from unittest.mock import Mock

import pytest
import torch

import densevit
from densevit.errors import TrainingError
from tests.training.loop.test_finite_check import POISONED
from tests.training.poisoned import Poison

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
