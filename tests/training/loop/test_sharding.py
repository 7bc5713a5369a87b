"""The parts of fsdp2 that need no second process: which blocks are sharded, and how its checkpoints are replaced."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.distributed.checkpoint.api import CheckpointException

from densevit.errors import TrainingError
from densevit.model import build_backbone

pytestmark = pytest.mark.integration


def test_repeated_blocks_are_the_entries_of_one_class() -> None:
    """Not stages, a single block, small norms and the stem."""
    from densevit.training.loop.sharding import repeated_blocks

    class Block(nn.Linear):
        pass

    stages = nn.ModuleList([nn.Sequential(nn.Linear(100, 100), Block(100, 100), Block(100, 100)) for _ in range(2)])
    norms = nn.ModuleList([nn.LayerNorm(100), nn.LayerNorm(100)])
    last = nn.Sequential(nn.Linear(100, 100), nn.ReLU())
    backbone = nn.ModuleDict({"stem": nn.Linear(3, 100), "stages": stages, "norms": norms, "last": last})
    assert {id(block) for block in repeated_blocks(backbone)} == {id(stage[i]) for stage in stages for i in (1, 2)}
    assert len(list(repeated_blocks(build_backbone("resnet", depth=50)))) == 16


def test_checkpoint_is_replaced_once_it_is_complete(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from densevit.training.loop.sharding import ShardedStrategy

    strategy, path = ShardedStrategy(), tmp_path / "last.ckpt"

    def save(text: str) -> None:
        def write(state: Any, folder: Path) -> None:
            (folder / "__0_0.distcp").write_text(text)
            if not text:
                failed: Any = {1: (OSError(28, "No space left on device"), [])}
                raise CheckpointException("write", failed)

        monkeypatch.setattr("pytorch_lightning.strategies.model_parallel._distributed_checkpoint_save", write)
        strategy.save_checkpoint({"state_dict": {}, "text": text}, path)

    def assert_saved(text: str) -> None:
        assert (path / "__0_0.distcp").read_text() == torch.load(path / "meta.pt")["text"] == text

    for text in ("first", "second"):
        save(text)
        assert_saved(text)
    said = "cannot be written by process 1: [Errno 28] No space left on device. The previous checkpoint is unchanged."
    with pytest.raises(TrainingError, match=re.escape(said)):
        save("")
    assert_saved("second")
    save("third")  # also with the remains of the failed one
    assert_saved("third")
    assert [p.name for p in tmp_path.iterdir()] == ["last.ckpt"]
