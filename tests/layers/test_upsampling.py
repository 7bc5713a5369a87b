"""Upsampling by a ratio of strides: where cells are."""

import torch

from densevit.layers.upsampling import upsampled


def test_cells_are_at_their_centres_or_first_pixels():
    x = torch.tensor([[[[0.0, 2.0, 4.0]]]])
    assert upsampled(x, 2, (1, 5)).tolist() == [[[[0.0, 0.5, 1.5, 2.5, 3.5]]]]
    assert upsampled(x, 2, (1, 5), align_corners=True).tolist() == [[[[0.0, 1.0, 2.0, 3.0, 4.0]]]]
    assert upsampled(x, 2, (1, 6), align_corners=True).tolist() == [[[[0.0, 1.0, 2.0, 3.0, 4.0, 4.0]]]]
    assert upsampled(x, 1, (1, 2)).tolist() == [[[[0.0, 2.0]]]]
