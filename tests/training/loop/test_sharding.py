"""The parts of fsdp2 that need no second process: which blocks are sharded, and how its checkpoints are replaced."""

import copy
import json
import os
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.distributed import checkpoint
from torch.distributed.checkpoint.api import CheckpointException

from densevit.errors import TrainingError
from densevit.model import build_backbone
from densevit.training.loop.shard_files import SafePlanner, ShardReader, ShardWriter

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
        def write(state: Any, storage_writer: ShardWriter) -> None:
            folder = Path(storage_writer.path)
            folder.mkdir()
            (folder / "__0_0.distcp").write_text(text)
            if not text:
                failed: Any = {1: (OSError(28, "No space left on device"), [])}
                raise CheckpointException("write", failed)

        monkeypatch.setattr(checkpoint, "save", write)
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


# ---- reading without pickle ----

STATE = {
    "state_dict": {"a.weight": torch.arange(6.0).view(2, 3), "a.count": torch.tensor(7)},
    "optimizer_0": {"param_groups": {"lr": 0.5, "betas": (0.9, 0.99), "foreach": None, "name": "all"}},
}


def blank() -> dict[str, Any]:
    groups = {"lr": 0.0, "betas": (0.0, 0.0), "foreach": True, "name": ""}
    state = {name: torch.zeros_like(value) for name, value in STATE["state_dict"].items()}
    return {"state_dict": state, "optimizer_0": {"param_groups": groups}}


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    """A checkpoint of one process."""
    checkpoint.save(copy.deepcopy(STATE), storage_writer=ShardWriter(tmp_path / "last.ckpt"), no_dist=True)
    torch.save({"global_step": 3}, tmp_path / "last.ckpt" / "meta.pt")
    return tmp_path / "last.ckpt"


def load(path: Path) -> dict[str, Any]:
    state = blank()
    checkpoint.load(state, storage_reader=ShardReader(path), planner=SafePlanner(), no_dist=True)
    return state


class Trap:
    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> Any:
        return open, (str(self.target), "w")


def test_shards_are_read_back_and_a_pickled_value_is_not_run(shards: Path, tmp_path: Path) -> None:
    from densevit.training.loop.sharding import read_checkpoint

    loaded = load(shards)
    assert loaded["optimizer_0"] == STATE["optimizer_0"]
    for name, value in STATE["state_dict"].items():
        assert torch.equal(loaded["state_dict"][name], value)
    content, shapes = read_checkpoint(shards)
    assert content == {"global_step": 3} and shapes == {"a.weight": (2, 3), "a.count": ()}
    assert not (shards / ".metadata").exists()

    state = blank()
    state["optimizer_0"]["param_groups"]["lr"] = Trap(tmp_path / "touched")
    checkpoint.save(state, storage_writer=ShardWriter(tmp_path / "trap"), no_dist=True)
    with pytest.raises(CheckpointException, match="Weights only load failed"):
        load(tmp_path / "trap")
    assert not (tmp_path / "touched").exists()
    checkpoint.load(blank(), storage_reader=ShardReader(tmp_path / "trap"), no_dist=True)  # torch's own planner
    assert (tmp_path / "touched").exists()


def of_weight(document: Any, **changes: Any) -> None:
    document["tensors"]["state_dict.a.weight"].update(changes)


def of_chunk(document: Any, **changes: Any) -> None:
    document["tensors"]["state_dict.a.weight"]["chunks"][0].update(changes)


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda d: of_chunk(d, file="../secret"), "names '../secret', which is no file in the folder"),
        (lambda d: of_chunk(d, file=".."), r"\.\. is missing"),
        (lambda d: of_chunk(d, file="pipe"), "pipe is missing"),
        (lambda d: of_chunk(d, bytes=10**9), "has [0-9]+ bytes of 100000"),
        (lambda d: of_chunk(d, first=-1), "are not whole numbers of 0 or more"),
        (lambda d: of_weight(d, size=[2.0, 3]), "are not whole numbers of 0 or more"),
        (lambda d: of_weight(d, dtype="load"), "has the dtype 'load'"),
        (lambda d: d.update(tensors={"a": {}}), "is damaged: KeyError"),
        (lambda d: d.update(version=2), "has version 2; expected 1"),
        (lambda d: "[" * 100_000, r"index\.json is damaged"),
        (lambda d: "3", r"index\.json is damaged"),
    ],
)
def test_damaged_index_is_refused(damage: Any, said: str, shards: Path) -> None:
    from densevit.training.loop.sharding import read_checkpoint

    os.mkfifo(shards / "pipe")
    document = json.loads((shards / "index.json").read_text())
    text = damage(document)
    (shards / "index.json").write_text(json.dumps(document) if text is None else text)
    with pytest.raises(ValueError, match=said):
        read_checkpoint(shards)
