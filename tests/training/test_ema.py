import pytest
import torch

from densevit.training.averaging import towards


@pytest.mark.parametrize("share", [0.1, 0.001, 0.3, 0.9])
def test_what_stands_still_stays_to_the_last_bit(share: float):
    x = torch.randn(10_000) * 10 ** torch.linspace(-30, 30, 10_000)
    assert torch.equal(towards(x.clone(), x, share), x)
    assert not torch.equal((1 - share) * x + share * x, x)  # what two products make of it


def test_what_moves_is_averaged():
    found = towards(torch.tensor([1.0, -2.0]), torch.tensor([2.0, 0.0]), 0.25)
    torch.testing.assert_close(found, torch.tensor([1.25, -1.5]))


def test_counts_are_the_newest():
    assert towards(torch.tensor(2**60 + 1), torch.tensor(2**60 + 3), 0.1) == 2**60 + 3
