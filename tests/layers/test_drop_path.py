"""Stochastic depth: images whose branch is dropped, and the rest scaled."""

import pytest
import torch

from densevit.layers.drop_path import DropPath


def test_branches_are_dropped_per_image():
    dropped = DropPath(0.3)(torch.ones(200, 3, 4))
    of_image = dropped.flatten(1)
    assert torch.equal(of_image, of_image[:, :1].expand_as(of_image))
    values = torch.unique(of_image)
    torch.testing.assert_close(values, torch.tensor([0.0, 1 / 0.7]))
    assert abs((of_image[:, 0] > 0).float().mean() - 0.7) < 0.15


def test_evaluation_and_a_rate_of_zero_change_nothing():
    x = torch.randn(8, 5)
    assert DropPath(0.5).eval()(x) is x
    assert DropPath(0.0)(x) is x


@pytest.mark.parametrize("rate", [-0.1, 1.0])
def test_a_rate_outside_0_to_1_raises(rate):
    with pytest.raises(ValueError, match="drop_path.*probability"):
        DropPath(rate)
