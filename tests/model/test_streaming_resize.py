"""Maps in strips are resized and averaged as complete maps are."""

import pytest
import torch
from torch.nn import functional as F

from densevit.model import streaming_resize
from densevit.model.streaming_resize import averaged, resized


@pytest.mark.parametrize("target", [(20, 7), (33, 7), (61, 15), (7, 3), (1, 1)])
@pytest.mark.parametrize("rows", [1, 3, 20])
def test_strips_are_resized_as_the_map(target, rows, monkeypatch):
    monkeypatch.setattr(streaming_resize, "MAX_STRIP_NUMEL", 60)  # four rows of two channels at most
    x = torch.randn(2, 20, 7)
    found = [strip.clone() for strip in resized(iter(x.split(rows, dim=1)), (20, 7), target)]
    expected = F.interpolate(x[None], target, mode="bilinear")[0]
    torch.testing.assert_close(torch.cat(found, dim=1), expected, rtol=1e-5, atol=1e-5)
    assert len(found) >= target[0] / 4


@pytest.mark.parametrize("lockstep", [False, True])
def test_maps_of_different_strips_are_averaged(lockstep):
    maps = torch.randn(3, 2, 12, 5)
    streams = [iter(x.split(rows, dim=1)) for x, rows in zip(maps, (1, 4, 12), strict=True)]
    found = torch.cat([strip.clone() for strip in averaged(streams, 12, lockstep)], dim=1)
    torch.testing.assert_close(found, maps.mean(0))
