"""Rotary position embedding (RoPE, Su et al. 2021; 2-D as in DINOv3, Siméoni et al. 2025)."""

import math

import torch
from torch import Tensor


def rotary_table(
    grid: tuple[int, int],
    channels: int,
    device: torch.device,
    part: tuple[int, int] | None = None,
    first: int = 0,
    temperature: float = 100.0,
) -> Tensor:
    """Cosines and signed sines of the rotation angles, for `rotate`.

    Coordinates are cell centres normalised to [-1, 1] per axis, for any grid size and aspect ratio. Channel pairs are
    rotated by 2 pi coordinate / period: the first quarter of the channels by the row, the second by the column, with
    periods from 1 to `temperature`. Channel i is paired with channel i + channels/2.

    channels: the channels of a head, a multiple of 4. part: (rows, columns) to compute instead of the whole grid; may
    be larger than the grid. Scores depend on offsets only, so all windows of one size use the same part. first: number
    of prefix tokens (e.g. the class token), which are not rotated.
    Returns (2, first + rows * columns, channels), float32.
    """
    height, width = part or grid
    rows = (torch.arange(height, device=device) + 0.5) / grid[0]
    columns = (torch.arange(width, device=device) + 0.5) / grid[1]
    cells = torch.stack(torch.meshgrid(rows, columns, indexing="ij"), dim=-1).flatten(0, 1) * 2 - 1  # (N, 2)
    quarter = torch.arange(channels // 4, device=device) / (channels // 4)
    angles = 2 * math.pi * cells[:, :, None] / temperature**quarter  # (N, 2, channels / 4)
    angles = angles.flatten(1)
    if first:
        angles = torch.cat([angles.new_zeros(first, angles.shape[1]), angles])
    cosines, sines = angles.cos(), angles.sin()
    return torch.stack([torch.cat([cosines, cosines], dim=1), torch.cat([-sines, sines], dim=1)])


def rotate(x: Tensor, table: Tensor) -> Tensor:
    """Rotates channel pairs. x: (..., N, channels). table: (2, N, channels) from `rotary_table`, in x's dtype."""
    cosines, sines = table.unbind(0)
    return x * cosines + x.roll(x.shape[-1] // 2, dims=-1) * sines
