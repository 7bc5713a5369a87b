"""Normalised images, computed by hand."""

import pytest
import torch

from densevit.channels import RGB, Channels
from densevit.model.normalisation import normalised

HEIGHT = Channels(("height",), "float32", ((-50.0, 450.0),))


@pytest.mark.parametrize(
    ("channels", "low", "black"),
    [(RGB, 0.0, -2.5), (HEIGHT, -50.0, -3.75)],  # (0 - 100) / 40 and (-50 - 100) / 40
)
def test_padding_is_the_mean_or_black_whatever_it_was(channels, low, black):
    images = torch.full((1, len(channels.names), 1, 2), 180.0)
    mask = torch.tensor([[[False, True]]])
    values = [torch.tensor(x)[None, None, None] for x in (low, low + 500.0, 100.0, 40.0)]
    assert normalised(images, mask, channels, *values)[0, -1].tolist() == [[2.0, 0.0]]
    assert normalised(images, mask, channels, *values, black_padding=True)[0, -1].tolist() == [[2.0, black]]
