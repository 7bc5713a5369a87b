"""Positions of cells, boxes and grids beside their formulas, timm and transformers."""

import math

import pytest
import torch
from torch.nn import functional as F

from densevit.layers.positions import (
    LearnedPositions,
    mask_on_grid,
    resize_grid,
    sine_boxes,
    sine_grid_1d,
    sine_grid_2d,
)


def test_sine_boxes_concatenates_centre_width_and_height():
    box = [0.1, 0.7, 0.25, 1.0]
    found = sine_boxes(torch.tensor([[box]]), 6)
    angles = [2 * math.pi * number / 20 ** (2 * (k // 2) / 6) for number in box for k in range(6)]
    expected = [math.sin(angle) if i % 2 == 0 else math.cos(angle) for i, angle in enumerate(angles)]
    torch.testing.assert_close(found, torch.tensor([[expected]]), atol=1e-5, rtol=1e-5)


def test_learned_positions_are_interpolated_for_larger_maps():
    positions = LearnedPositions(2, length=3)
    positions.rows.data = torch.tensor([[0.0], [1.0], [4.0]])
    positions.columns.data = torch.tensor([[5.0], [6.0], [7.0]])
    whole = positions(torch.zeros(2, 2, 3, dtype=torch.bool))
    assert whole.shape == (2, 2, 3, 2) and whole[1, 1, 2].tolist() == [7.0, 1.0]  # column and row
    found = positions(torch.zeros(1, 5, 2, dtype=torch.bool))
    assert found[0, :, 0, 1].tolist() == [0.0, 0.5, 1.0, 2.5, 4.0]  # rows, in the second half
    assert found[0, 0, :, 0].tolist() == [5.0, 6.0]


@pytest.mark.parametrize(("row", "column"), [(0, 0), (0, 4), (1, 0), (2, 3)])
def test_sine_grids_match_their_formulas(row, column):
    """In one dimension of cells counted row by row, and MAE's in two."""
    angles = [(5 * row + column) / 10000 ** (2 * (k // 2) / 8) for k in range(8)]
    one = [math.sin(angle) if k % 2 == 0 else math.cos(angle) for k, angle in enumerate(angles)]
    places = [[place / 10000 ** (k / 4) for k in range(4)] for place in (column, row)]
    two = [f(angle) for axis in places for f in (math.sin, math.cos) for angle in axis]
    for found, expected in ((sine_grid_1d(3, 5, 8), one), (sine_grid_2d(3, 5, 16), two)):
        torch.testing.assert_close(found[row, column], torch.tensor(expected), atol=1e-5, rtol=0)


@pytest.mark.parametrize("by", ["bicubic", "bilinear"])
def test_resize_grid_matches_transformers(by):
    """Position embeddings of ViT and DPT, from 14 x 14 to a wider, less high grid."""
    from transformers import DPTConfig, ViTConfig
    from transformers.models.dpt.modeling_dpt import DPTViTEmbeddings
    from transformers.models.vit.modeling_vit import ViTEmbeddings

    table = torch.randn(1, 1 + 14 * 14, 32)
    if by == "bicubic":
        theirs = ViTEmbeddings(ViTConfig(hidden_size=32)).eval()
        theirs.position_embeddings.data = table
        resized = theirs.interpolate_pos_encoding(torch.zeros(1, 1 + 9 * 30, 32), 9 * 16, 30 * 16)
    else:
        resized = DPTViTEmbeddings(DPTConfig(hidden_size=32))._resize_pos_embed(table, 9, 30)
    ours = resize_grid(table[0, 1:].view(14, 14, 32), (9, 30), by)
    torch.testing.assert_close(ours, resized[0, 1:].view(9, 30, 32))


def test_the_offset_of_dinov2_is_that_of_scale_factor():
    table = torch.randn(1, 8, 14, 9)
    resized = F.interpolate(table, scale_factor=[9.1 / 14, 30.1 / 9], mode="bicubic", align_corners=False)
    found = resize_grid(table[0].permute(1, 2, 0), (9, 30), "bicubic_offset")
    torch.testing.assert_close(found, resized[0].permute(1, 2, 0), atol=1e-5, rtol=0)


def test_a_cell_is_padding_if_its_nearest_pixel_is():
    """The pixels of rows and columns 0 and 2 of 4; in columns from 3 on there is padding."""
    padding = torch.arange(6).expand(1, 4, 6) >= 3
    assert mask_on_grid(padding, (2, 3)).tolist() == [[[False, False, True]] * 2]
    assert mask_on_grid(padding, (4, 6)) is padding
