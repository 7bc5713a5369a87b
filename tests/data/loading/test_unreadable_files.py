"""`data.on_error`: images whose files cannot be read, in training and evaluation, with and without workers."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from densevit.config import DataSection
from densevit.data.data_splits import DataSplits
from densevit.interfaces import Batch
from tests.written_files import save_image

LENGTH, DAMAGED = 12, ("00", "07")


def write_damaged(root: Path) -> None:
    """Twelve noise images with label maps in each split. Damaged ones lack the second half but its end marker, which is
    found only when they are decoded."""
    rng = np.random.default_rng(0)
    for split in ("train", "val"):
        for kind, shape in (("images", (32, 32, 3)), ("labels", (32, 32))):
            for index in range(LENGTH):
                pixels = rng.integers(0, 256 if kind == "images" else 2, shape).astype(np.uint8)
                save_image(root / kind / split / f"{index:02}.{'jpg' if kind == 'images' else 'png'}", pixels)
        for name in DAMAGED:
            file = root / "images" / split / f"{name}.jpg"
            data = file.read_bytes()
            file.write_bytes(data[: len(data) // 2] + data[-2:])


@pytest.fixture
def root(tmp_path):
    write_damaged(tmp_path)
    return tmp_path


def data(root: Path, on_error: str = "skip", **options: Any) -> DataSplits:
    section = {"name": "label_maps", "root": str(root), "classes": ["a", "b"], "image_size": 32, "batch_size": 4}
    return DataSplits(
        DataSection(**{**section, "num_workers": 0, "on_error": on_error, **options}), seed=3, size_divisor=32
    )


def names(loader: Iterable[Batch]) -> list[list[str]]:
    return [[targets["image_id"] for targets in batch["targets"]] for batch in loader]


def planned(made: DataSplits, world_size: int = 1, rank: int = 0) -> list[list[str]]:
    """The names of the batches, before an image is read."""
    batches = made.train_loader(rank, world_size).batch_sampler
    assert batches is not None
    return [[f"{pick.index:02}" for pick in batch] for batch in batches]


@pytest.mark.parametrize(("num_workers", "world_size"), [(0, 2), (2, 1)])
def test_batches_lack_the_unreadable_images_only(root, num_workers, world_size):
    made = data(root, num_workers=num_workers, batch_size=3)
    for rank in range(world_size):
        expected = [[name for name in batch if name not in DAMAGED] for batch in planned(made, world_size, rank)]
        missing_names = [[name for name in batch if name in DAMAGED] for batch in planned(made, world_size, rank)]
        batches = list(made.train_loader(rank, world_size))
        assert names(batches) == expected
        for batch, missing in zip(batches, missing_names, strict=True):
            assert len(batch["images"]) == len(batch["padding_mask"]) == len(batch["targets"])
            reasons = batch.get("skipped", [])
            assert len(reasons) == len(missing)
            for reason, name in zip(reasons, missing, strict=True):
                assert reason.startswith(f"{root}/images/train/{name}.jpg cannot be read")


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_batch_without_a_readable_image_has_the_next_one(root, num_workers):
    made = data(root, num_workers=num_workers, batch_size=1)
    expected = [[{"00": "01", "07": "08"}.get(name, name)] for [name] in planned(made)]
    assert names(made.train_loader()) == expected
    batches = list(made.val_loader())
    assert [len(batch["images"]) for batch in batches] == [1] * LENGTH
    counted = [targets["image_id"] for batch in batches for targets in batch["targets"] if "truth" in targets]
    assert sorted(counted) == [f"{index:02}" for index in range(LENGTH) if f"{index:02}" not in DAMAGED]
    assert sum(len(batch.get("skipped", [])) for batch in batches) == 2
