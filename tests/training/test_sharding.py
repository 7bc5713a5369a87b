"""The parts of fsdp2 that need no second process: which blocks are sharded, and how its checkpoints are replaced."""

import re
from pathlib import Path
from typing import Any

import pytest
from pytorch_lightning.strategies import ModelParallelStrategy
from torch import nn
from torch.distributed.checkpoint.api import CheckpointException

from densevit.errors import TrainingError
from densevit.model import create_backbone
from densevit.training.sharding import ShardedStrategy, repeated_blocks


def test_repeated_blocks_are_the_entries_of_one_class() -> None:
    """Two stages of two blocks; the stages, a single block, small norms and the stem are not blocks."""

    class Block(nn.Linear):
        pass

    stages = nn.ModuleList([nn.Sequential(nn.Linear(100, 100), Block(100, 100), Block(100, 100)) for _ in range(2)])
    norms = nn.ModuleList([nn.LayerNorm(100), nn.LayerNorm(100)])
    last = nn.Sequential(nn.Linear(100, 100), nn.ReLU())
    backbone = nn.ModuleDict({"stem": nn.Linear(3, 100), "stages": stages, "norms": norms, "last": last})
    assert {id(block) for block in repeated_blocks(backbone)} == {id(stage[i]) for stage in stages for i in (1, 2)}


@pytest.mark.parametrize(
    ("name", "options", "count"),
    [("vit", {"variant": "tiny"}, 12), ("swin", {"variant": "tiny"}, 12), ("resnet", {"depth": 50}, 16)],
)
def test_blocks_of_the_backbones(name: str, options: dict[str, Any], count: int) -> None:
    """As many as the papers' tables say."""
    assert len(list(repeated_blocks(create_backbone(name, **options)))) == count


def write(text: str) -> Any:
    def save(self: ModelParallelStrategy, checkpoint: Any, path: Path, storage_options: Any = None) -> None:
        path.mkdir()
        (path / "meta.pt").write_text(text)
        if not text:
            raise CheckpointException("write", {1: (OSError(28, "No space left on device"), [])})  # type: ignore[dict-item]

    return save


def test_checkpoint_is_replaced_once_it_is_complete(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    strategy, path = ShardedStrategy(), tmp_path / "last.ckpt"
    for text in ("first", "second"):
        monkeypatch.setattr(ModelParallelStrategy, "save_checkpoint", write(text))
        strategy.save_checkpoint({}, path)
        assert [p.name for p in tmp_path.iterdir()] == ["last.ckpt"] and (path / "meta.pt").read_text() == text
    monkeypatch.setattr(ModelParallelStrategy, "save_checkpoint", write(""))
    said = "cannot be written by process 1: [Errno 28] No space left on device. The previous checkpoint is unchanged."
    with pytest.raises(TrainingError, match=re.escape(said)):
        strategy.save_checkpoint({}, path)
    assert (path / "meta.pt").read_text() == "second"
    monkeypatch.setattr(ModelParallelStrategy, "save_checkpoint", write("third"))
    strategy.save_checkpoint({}, path)  # also with the remains of the failed one
    assert [p.name for p in tmp_path.iterdir()] == ["last.ckpt"] and (path / "meta.pt").read_text() == "third"
