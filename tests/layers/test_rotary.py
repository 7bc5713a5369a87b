"""Rotary positions."""

import math

import torch

from densevit.layers.rotary import rotary_table, rotate


def test_channel_quarters_rotate_by_row_and_column():
    """Four channels have one period, 1: channels 0 and 2 rotate by the row, 1 and 3 by the column."""
    found = rotate(torch.tensor([1.0, 1.0, 0.0, 0.0]).expand(6, 4), rotary_table((2, 3), 4, torch.device("cpu")))
    for row in range(2):
        for column in range(3):
            by_row, by_column = 2 * math.pi * (-0.5, 0.5)[row], 2 * math.pi * (-2 / 3, 0.0, 2 / 3)[column]
            expected = [math.cos(by_row), math.cos(by_column), math.sin(by_row), math.sin(by_column)]
            torch.testing.assert_close(found[3 * row + column], torch.tensor(expected), atol=1e-5, rtol=0)
