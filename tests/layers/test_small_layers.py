"""Small layers: pooling, padding, stochastic depth, cached tables and activation checkpointing."""

import pickle

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from densevit.layers.checkpointing import run, update_statistics_once
from densevit.layers.drop_path import DropPath
from densevit.layers.norms import SyncBatchNorm2d
from densevit.layers.pooling import masked_mean


@pytest.mark.parametrize("dtype", [torch.float16, torch.float64])
def test_mean_of_large_values_is_finite_and_exact(dtype: torch.dtype) -> None:
    """32 x 24 cells of 100 inside of the padding: their sum, 76,800, is above fp16's largest number."""
    x = torch.full((1, 2, 32, 32), 100.0, dtype=dtype)
    x[..., 24:] = 7.0
    padding_mask = torch.zeros(1, 128, 128, dtype=torch.bool)
    padding_mask[..., 96:] = True
    assert masked_mean(x, padding_mask).tolist() == [[100.0, 100.0]]
    assert masked_mean(x, padding_mask).dtype == dtype


def test_branches_are_dropped_per_image():
    of_image = DropPath(0.3)(torch.ones(200, 3, 4)).flatten(1)
    assert torch.equal(of_image, of_image[:, :1].expand_as(of_image))
    torch.testing.assert_close(torch.unique(of_image), torch.tensor([0.0, 1 / 0.7]))
    assert abs((of_image[:, 0] > 0).float().mean() - 0.7) < 0.15


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
