"""A step that does not finish: what is printed, and that the training goes on."""

import threading
import time
import traceback
from pathlib import Path

import pytest

import densevit
from densevit import config as configs
from tests.training import poisoned
from tests.training.loop.test_finite_check import POISONED


@pytest.mark.integration
@pytest.mark.usefixtures("no_drawings")
def test_slow_data_set_is_reported_and_training_goes_on(tmp_path: Path, capsys, monkeypatch):
    from tests.training.own_callbacks import Started

    original, started = poisoned.Greys.__getitem__, Started()

    def slow(self, index):
        if self.split == "train" and started.is_started:
            time.sleep(1.5)
        return original(self, index)

    (tmp_path / "slow.yaml").write_text(POISONED)
    given = ["backbone.where=nowhere", "trainer.max_steps=1"]
    config = configs.load(tmp_path / "slow.yaml", [*given, "trainer.stall_after=1s"])
    monkeypatch.setattr(poisoned.Greys, "__getitem__", slow)
    densevit.fit(config, run_dir=tmp_path / "run", callbacks=[started])
    printed = capsys.readouterr().err
    said = "no step has finished for 1 s (trainer.stall_after), after optimiser step 0. It waits for the data"
    assert said in printed
    assert "The first step may take minutes" in printed and "main thread:" in printed
    assert f"slow in {__file__}" in printed
    assert (tmp_path / "run" / "metrics.json").is_file()
    assert not [thread for thread in threading.enumerate() if thread.name == "stall-reports" and thread.is_alive()]


@pytest.mark.parametrize(
    ("file", "processes", "expected"),
    [
        ("torch/distributed/distributed_c10d.py", 2, "the other processes, in a collective"),
        ("torch/autograd/graph.py", 2, "the gradients of the other processes"),
        ("torch/utils/data/dataloader.py", 1, "the data loader"),
        ("torch/nn/functional.py", 1, "its own code: f in /y/mine.py, line 7"),
    ],
)
def test_what_a_stack_waits_for(file: str, processes: int, expected: str):
    from densevit.training.loop.stall import waits_for

    files = ["run.py", "/y/mine.py", f"/x/site-packages/{file}"]
    stack = [traceback.FrameSummary(name, 7, "f", lookup_line=False, line="") for name in files]
    assert waits_for(stack, processes).startswith(expected)
