"""Multi-scale training with one size per batch, and other augmentation in the final phase of the training."""

from collections import Counter
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from densevit import config
from densevit.config import DataSection
from densevit.data.data_splits import DataSplits
from densevit.data.loading.batch_sampler import TrainBatches
from densevit.data.loading.dataloader import Loader
from densevit.data.transforms.augmentation_phases import final_phase_start, transforms_at
from densevit.errors import ConfigError
from densevit.interfaces import Batch, Sample
from tests.counted_dataset import CountedDataset
from tests.training.runs import TINY

SIZES = [32, 64, 64, 96]


class Boards(CountedDataset):
    """Images of 80 x 40 pixels with one box and a depth of 6 metres."""

    classes: dict[str, Any] = {}  # noqa: RUF012
    provides = ("boxes", "labels", "depth")

    def __init__(self, split: str, length: int = 24) -> None:
        self.length = length

    def __getitem__(self, index: int) -> Sample:
        image = torch.from_numpy(np.random.default_rng(index).integers(0, 256, (3, 80, 40)).astype(np.uint8))
        boxes = torch.tensor([[10.0, 20, 30, 60]])
        targets = {"boxes": boxes, "labels": torch.tensor([0]), "depth": torch.full((80, 40), 6.0), "image_id": index}
        return {"image": image, "targets": targets}


def loader(
    rank: int = 0, world_size: int = 1, num_workers: int = 0, steps: int | None = None, **options: Any
) -> Loader:
    values = {"name": f"{__name__}:Boards", "image_size": 64, "transforms": "resize", "multi_scale": SIZES, **options}
    section = DataSection.model_validate({"batch_size": 4, "num_workers": num_workers, **values})
    data, final_from = DataSplits(section, seed=3, size_divisor=1), None
    if steps is not None and section.final_phase is not None:
        epoch = data.batches_per_epoch(world_size)
        final_from = partial(final_phase_start, section.final_phase.start, steps, epoch, batches_per_step=1)
    return data.train_loader(rank, world_size, order=partial(TrainBatches, final_from=final_from))


def sides(batches: Any) -> list[int]:
    return [max(batch["images"].shape[2:]) for batch in batches]


def epochs(made: Loader, count: int) -> list[Batch]:
    batches = []
    for epoch in range(count):
        made.set_epoch(epoch)
        batches += list(made)
    return batches


def test_all_images_of_a_batch_have_one_size_of_the_list():
    batches = epochs(loader(), 20)
    for batch in batches:
        assert {target["size"] for target in batch["targets"]} == {tuple(batch["images"].shape[2:])}
    counts = Counter(sides(batches))
    assert counts.keys() == {32, 64, 96} and len(batches) == 120
    assert counts[64] == pytest.approx(60, abs=17) and counts[32] == pytest.approx(30, abs=15)  # 3 sigma


def test_workers_and_processes_draw_the_same_sizes():
    one = epochs(loader(), 2)
    workers = epochs(loader(num_workers=2), 2)
    assert sides(workers) == sides(one)
    assert all(torch.equal(a["images"], b["images"]) for a, b in zip(one, workers, strict=True))
    ranks = [epochs(loader(rank, 2, batch_size=2), 2) for rank in range(2)]
    assert sides(ranks[0]) == sides(ranks[1]) == sides(one)
    for batch, parts in zip(one, zip(*ranks, strict=True), strict=True):
        assert torch.equal(batch["images"], torch.cat([part["images"] for part in parts]))


def test_transforms_are_scaled_by_hand():
    options = {"name": "crop", "short_side": 300, "scales": (0.5, 2.0)}
    scaled = transforms_at(DataSection(name="scenes", image_size=(320, 640), transforms=options), 480)
    assert (scaled.canvas, scaled.scales, scaled.short_side) == ((240, 480), (0.375, 1.5), 300)
    assert transforms_at(DataSection(name="scenes", image_size=640), 480).image_size == 480


def test_the_start_of_the_final_phase_by_hand():
    assert final_phase_start(0.5, 12, 6, batches_per_step=1) == (1, 0)
    assert final_phase_start(0.7, 12, 6, batches_per_step=1) == (1, 3), "8.4 steps"
    assert final_phase_start(0.7, 6, 3, batches_per_step=2) == (1, 4), "3 steps of 2 batches per epoch"


@pytest.mark.parametrize("num_workers", [0, 2])
def test_the_final_phase_has_its_own_augmentation(num_workers):
    """24 images, 6 batches per epoch, 12 steps: the final phase begins with the fourth batch of the second epoch. The
    workers live on between epochs."""
    options: Any = {"steps": 12, "multi_scale": [64], "final_phase": {"start": 0.75, "multi_scale": [80]}}
    batches = epochs(loader(num_workers=num_workers, **options), 2)
    assert sides(batches) == [64] * 9 + [80] * 3
    made = loader(num_workers=num_workers, **options)
    made.load_state_dict({"epoch": 1, "position": 2, "seed": 3})
    resumed = list(made)
    assert sides(resumed) == [64] + [80] * 3
    assert all(torch.equal(a["images"], b["images"]) for a, b in zip(resumed, batches[8:], strict=True))


def test_keys_that_the_phase_does_not_name_are_kept():
    section = DataSection(
        name="scenes", image_size=64, transforms={"name": "crop", "short_side": 80, "rotation": 5.0},
        multi_scale=(32, 64), vertical_flip=True, root="a",
        final_phase={"start": 0.9, "transforms": {"rotation": None}},
    )  # fmt: skip
    final = section.in_final_phase
    assert (final.multi_scale, final.vertical_flip) == ((32, 64), True)
    assert final.transforms.model_dump() == {"name": "crop", "short_side": 80, "rotation": None}
    assert final.options == {"root": "a"} and final.final_phase is None


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["data.multi_scale=[]"], r"data\.multi_scale is empty"),
        (
            ["data.multi_scale=[64]", "data.image_size=null"],
            r"data\.multi_scale: .* data\.image_size, which is missing",
        ),
        (["data.final_phase={start: 0.5, multi_scales: null}"], r"data\.final_phase: .*Did you mean 'multi_scale'\?"),
        (["data.final_phase={start: 0.5, transforms: resise}"], r"data\.final_phase\.transforms\.name: .*'resize'"),
        (["data.final_phase={start: 1.5}"], r"data\.final_phase\.start should be less than 1, not 1\.5"),
        (["trainer.ema_warmup=5"], r"trainer\.ema_warmup: .*Set trainer\.ema"),
    ],
)
def test_wrong_keys_are_named(overrides, message):
    with pytest.raises(ConfigError, match=message):
        config.check_plugins(config.from_mapping(yaml.safe_load(TINY), overrides=overrides))
