"""Resuming runs no code of a checkpoint, and checkpoints contain plain data only."""

from pathlib import Path

import pytest
import torch

from densevit.errors import WeightsError
from tests.training import runs
from tests.training.runs import SEGMENTATION

pytestmark = pytest.mark.integration

TINY = SEGMENTATION
for old, new in (("max_epochs: 3", "max_steps: 1"), ("val_length: 3", "val_length: 1"), ("lr: 1e-2", "lr: 1e-3")):
    TINY = TINY.replace(old, new)


class Trap:
    """Creates a file when unpickled."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self):
        return open, (str(self.target), "w")


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
def test_malicious_last_checkpoint_is_refused_and_not_run(legacy, tmp_path):
    run, target = tmp_path / "run", tmp_path / "touched"
    (run / "checkpoints").mkdir(parents=True)
    (run / "config.yaml").write_text(TINY)
    content = {"global_step": 1, "state_dict": {"w": torch.ones(1)}, "random_state": Trap(target)}
    torch.save(content, run / "checkpoints" / "last.ckpt", _use_new_zipfile_serialization=not legacy)
    message = r"last\.ckpt: not a complete checkpoint of tensors and plain values.*No code"
    with pytest.raises(WeightsError, match=message):
        runs.resume(run)
    assert not target.exists()
