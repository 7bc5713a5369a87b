"""Padding into batches, and the sample order in training and evaluation, computed by hand or counted."""

from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch

from densevit.data.loading.batch_sampler import EvaluationBatches, SampleKey, TrainBatches, aspect_groups, collate
from densevit.interfaces import Sample


def sample(height: int, width: int, value: int, **targets: Any) -> Sample:
    return {"image": torch.full((3, height, width), value, dtype=torch.uint8), "targets": targets}


def indices(batches: Any) -> list[list[int]]:
    return [[pick.index for pick in batch] for batch in batches]


def test_images_are_padded_at_the_bottom_and_right(monkeypatch):
    monkeypatch.setattr(np, "empty", lambda shape, dtype: np.full(shape, 77, dtype))  # memory with previous content
    batch = collate([sample(2, 3, 5, image_id=1), sample(1, 4, 7, image_id=2)])
    assert batch["images"].dtype == torch.uint8
    assert batch["images"][:, 1].tolist() == [[[5, 5, 5, 0], [5, 5, 5, 0]], [[7, 7, 7, 7], [0, 0, 0, 0]]]
    assert batch["padding_mask"].int().tolist() == [[[0, 0, 0, 1], [0, 0, 0, 1]], [[0, 0, 0, 0], [1, 1, 1, 1]]]
    assert [targets["image_id"] for targets in batch["targets"]] == [1, 2]
    rounded = collate([sample(33, 64, 1), sample(10, 65, 1)], size_divisor=32)
    assert rounded["images"].shape == (2, 3, 64, 96)
    assert (~rounded["padding_mask"]).sum(dim=(1, 2)).tolist() == [33 * 64, 10 * 65]
    fixed = collate([sample(3, 4, 1), sample(9, 2, 1)], size_divisor=(8, 10))  # at least the size of a model
    assert fixed["images"].shape == (2, 3, 9, 10)
    padded_before = collate([sample(4, 6, 9, size=(3, 2))])["padding_mask"]
    assert (~padded_before[0]).nonzero().amax(dim=0).tolist() == [2, 1]


@pytest.mark.parametrize("world_size", [1, 3])
def test_epoch_has_unique_samples_and_equal_ranks(world_size):
    ranks = [TrainBatches(103, 8, seed=1, rank=rank, world_size=world_size) for rank in range(world_size)]
    dealt = [indices(batches) for batches in ranks]
    assert {len(batches) for batches in dealt} == {len(ranks[0])} == {103 // (8 * world_size)}
    assert all(len(batch) == 8 for batches in dealt for batch in batches)
    seen = Counter(index for batches in dealt for batch in batches for index in batch)
    assert set(seen.values()) == {1} and set(seen) <= set(range(103))


@pytest.mark.parametrize("position", [0, 5])
def test_ranks_share_the_batches_of_one_rank(position):
    """One rank with a batch of 12, two with 6, three with 4 and groups of unequal sizes, also within an epoch."""
    groups = np.arange(103) % 7 // 3
    state = {"epoch": 2, "position": position, "seed": 1}

    def global_batches(world_size: int) -> list[list[SampleKey]]:
        ranks = [TrainBatches(103, 12 // world_size, 0, rank, world_size, groups) for rank in range(world_size)]
        for rank in ranks:
            rank.load_state_dict(state)
        return [[pick for batch in batches for pick in batch] for batches in zip(*ranks, strict=True)]

    one = global_batches(1)
    assert len(one) == 8 - position
    assert global_batches(2) == one == global_batches(3)


def at(epoch: int, *given: Any, **options: Any) -> TrainBatches:
    batches = TrainBatches(*given, **options)
    batches.set_epoch(epoch)
    return batches


def test_order_depends_on_seed_and_epoch_only():
    def order(seed: int, epoch: int) -> list[list[SampleKey]]:
        return list(at(epoch, 64, 8, seed))

    assert order(0, 0) == order(0, 0)
    different = [order(seed, epoch) for seed, epoch in ((0, 0), (0, 1), (1, 0), (1, 1))]
    assert len({str(indices(batches)) for batches in different}) == 4
    assert len({batches[0][0].seed for batches in different}) == 4, "the augmentation's seeds must differ too"


@pytest.mark.parametrize("world_size", [1, 2])
def test_repeats_are_numbered_across_ranks(world_size):
    ranks = [TrainBatches(3, 4, seed=0, rank=rank, world_size=world_size) for rank in range(world_size)]
    assert [len(list(batches)) for batches in ranks] == [1] * world_size, "smaller than a batch, and repeated"
    picks = [pick for batches in ranks for batch in batches for pick in batch]
    assert len(set(picks)) == 4 * world_size, "two picks would be augmented alike"
    for index in range(3):
        repeats = sorted(pick.repeat for pick in picks if pick.index == index)
        assert repeats == list(range(len(repeats)))
    assert all(pick.repeat == 0 for batch in TrainBatches(40, 4, seed=0) for pick in batch)


def test_aspect_groups_separate_landscape_from_portrait():
    sizes = np.array([[480, 640], [640, 480], [500, 500], [300, 640], [640, 300], [90, 100]])
    assert aspect_groups(sizes).tolist() == [0, 2, 1, 0, 2, 1]


@pytest.mark.parametrize("done", [0, 3])
def test_resuming_continues_after_the_last_consumed_batch(done):
    expected, interrupted = list(at(2, 43, 8, seed=3)), at(2, 43, 8, seed=3)
    stream = iter(interrupted)
    for _ in range(done):
        next(stream)
        interrupted.advance()
    resumed = TrainBatches(43, 8, seed=99)
    resumed.load_state_dict(interrupted.state_dict())
    resumed.set_epoch(2)  # as a training loop does before it iterates
    assert list(resumed) == expected[done:]
    assert len(resumed) == 5
    for _ in range(done, 5):
        interrupted.advance()
    following = TrainBatches(43, 8, seed=99)
    following.load_state_dict(interrupted.state_dict())
    assert list(following) == list(at(3, 43, 8, seed=3)), "after the last batch comes the next epoch"


@pytest.mark.parametrize("world_size", [1, 5])
def test_each_image_is_evaluated_once_in_batches_of_one_size(world_size):
    sizes = np.array([[64, 96], [96, 64], [64, 64]])[np.random.default_rng(0).integers(0, 3, 50)]
    ranks = [EvaluationBatches(50, sizes, 4, rank, world_size) for rank in range(world_size)]
    dealt = [batch for batches in ranks for batch in indices(batches)]
    assert sorted(index for batch in dealt for index in batch) == list(range(50))
    for batch in dealt:
        assert len(batch) <= 4 and len({tuple(sizes[index]) for index in batch}) == 1
    counts = [len(batches) for batches in ranks]
    assert max(counts) - min(counts) <= 1
    assert len(dealt) == sum(-(-int((sizes == size).all(axis=1).sum()) // 4) for size in ([64, 96], [96, 64], [64, 64]))


def test_more_ranks_than_images():
    assert indices(EvaluationBatches(3, None, 4, rank=1, world_size=2)) == [[1]], "of unknown size: individually"
    ranks = [EvaluationBatches(2, np.array([[8, 8], [8, 8]]), 1, rank, 4) for rank in range(4)]
    dealt = [[pick for batch in batches for pick in batch] for batches in ranks]
    assert [len(batches) for batches in ranks] == [len(picks) for picks in dealt] == [1] * 4
    assert sorted(pick.index for picks in dealt for pick in picks if not pick.repeat) == [0, 1]
    assert all(pick.repeat for pick in dealt[2] + dealt[3]), "the others only go along"
