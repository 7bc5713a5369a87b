"""Activation checkpointing: the recomputation leaves running statistics as they are."""

import pickle

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from densevit.layers.checkpointing import run, update_statistics_once
from densevit.layers.norms import SyncBatchNorm2d


@pytest.mark.parametrize(("kind", "by_hooks"), [(nn.BatchNorm2d, False), (SyncBatchNorm2d, True)])
def test_recomputation_updates_statistics_once(kind, by_hooks):
    plain, checkpointed = (nn.Sequential(nn.Conv2d(3, 4, 1), kind(4), nn.ReLU()) for _ in range(2))
    checkpointed.load_state_dict(plain.state_dict())
    if by_hooks:
        update_statistics_once(checkpointed)
    x = torch.randn(2, 3, 6, 5)
    for _ in range(2):
        plain(x).square().sum().backward()
        outputs = (
            checkpoint(checkpointed, x, use_reentrant=False) if by_hooks else run(checkpointed, x, checkpointed=True)
        )
        outputs.square().sum().backward()
    for key, value in plain.state_dict().items():
        assert torch.equal(checkpointed.state_dict()[key], value)
    for own, other in zip(checkpointed.parameters(), plain.parameters(), strict=True):
        assert torch.equal(own.grad, other.grad)
    copied = pickle.loads(pickle.dumps(checkpointed))  # as for spawned processes
    assert torch.equal(copied(x), checkpointed(x))
    assert (checkpointed[1].momentum, int(checkpointed[1].num_batches_tracked)) == (0.1, 3)
