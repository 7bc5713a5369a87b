"""Sine and learned position encodings of feature map cells and boxes."""

import math
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from densevit.layers.table_cache import cached_table

Resizing = Literal["antialiased", "bicubic", "bicubic_offset", "bilinear"]


def mask_on_grid(padding_mask: Tensor, size: tuple[int, int]) -> Tensor:
    """Resizes a padding mask (B, H, W) to a feature map, (B, *size), by nearest neighbour (DETR)."""
    if padding_mask.shape[-2:] == torch.Size(size):
        return padding_mask
    return F.interpolate(padding_mask[:, None].float(), size=size)[:, 0] > 0.5


def sine(position: Tensor, channels: int, temperature: float = 10000.0) -> Tensor:
    """Sine encoding of a coordinate, sines and cosines interleaved (Vaswani et al. 2017, section 3.5).

    position: (...), in radians. Returns (..., channels), in float32.
    """
    angle = position.float()[..., None] / cached_table(_wavelengths, channels, temperature, position.device)
    return torch.stack([angle.sin(), angle.cos()], dim=-1).flatten(-2)


def _wavelengths(channels: int, temperature: float, device: torch.device) -> Tensor:
    """The positions per radian of each pair of a sine and a cosine, (channels / 2,)."""
    return temperature ** (torch.arange(0, channels, 2, device=device) / channels)


def sine_map(padding: Tensor, channels: int, temperature: float = 10000.0, centred: bool = False) -> Tensor:
    """DETR's sine encoding of cells, counted without padding and normalised to 2 pi (Carion et al. 2020, A.4).

    padding: (B, H, W) bool, True = padding. centred: whether a cell's centre is encoded, as in Deformable DETR,
    instead of its end. Returns (B, H, W, channels), rows in the first half, columns in the second.
    """
    valid = (~padding).float()
    rows, columns = valid.cumsum(1), valid.cumsum(2)
    rows = (rows - centred / 2) / (rows[:, -1:, :] + 1e-6) * (2 * math.pi)
    columns = (columns - centred / 2) / (columns[:, :, -1:] + 1e-6) * (2 * math.pi)
    half = channels // 2
    return torch.cat([sine(rows, half, temperature), sine(columns, half, temperature)], dim=-1)


def sine_boxes(boxes: Tensor, channels: int, temperature: float = 20.0) -> Tensor:
    """Sine encoding of boxes for queries (DAB-DETR, Liu et al. 2022, section 4.2).

    boxes: (..., 4) normalised cxcywh. Returns (..., 4 * channels), the encodings of cx, cy, w, h concatenated.
    """
    return sine(boxes * (2 * math.pi), channels, temperature).flatten(-2)


def sine_grid_1d(height: int, width: int, channels: int, device: torch.device | None = None) -> Tensor:
    """Sine encoding of the row-major cell index (Dosovitskiy et al. 2021, appendix D.4: "1-D").

    Returns (H, W, channels), float32.
    """
    return sine(torch.arange(height * width, device=device), channels).view(height, width, channels)


def sine_grid_2d(height: int, width: int, channels: int, device: torch.device | None = None) -> Tensor:
    """Sine encoding of column and row indices (MAE, He et al. 2022, appendix A.1).

    channels: a multiple of 4: sines and cosines of the column, then sines and cosines of the row, as
    in MAE's weights. Returns (H, W, channels), float32.
    """
    rows, columns = (_sines_then_cosines(size, channels // 2, device) for size in (height, width))
    return torch.cat([columns[None].expand(height, -1, -1), rows[:, None].expand(-1, width, -1)], dim=-1)


def _sines_then_cosines(length: int, channels: int, device: torch.device | None) -> Tensor:
    return sine(torch.arange(length, device=device), channels).unflatten(-1, (-1, 2)).transpose(-2, -1).flatten(-2)


def resize_grid(table: Tensor, size: tuple[int, int], by: Resizing = "antialiased") -> Tensor:
    """Resizes position embeddings (H, W, C) to (*size, C) with align_corners=False.

    by: "antialiased", bicubic with antialiasing, as timm and DINOv2 with registers; "bicubic" without, as DeiT, MAE and
    transformers, which uses another kernel (a = -0.75 instead of -0.5) also when upsampling; "bicubic_offset", the same
    with scales of (size + 0.1) / side instead of size / side, as DINOv2 without registers; "bilinear", as DPT and
    mmsegmentation's SETR.
    """
    if table.shape[:2] == torch.Size(size):
        return table
    if by == "bicubic_offset":
        rows, columns = (_cubic_weights(*sides, table.device) for sides in zip(size, table.shape[:2], strict=True))
        return torch.einsum("hy,wx,yxc->hwc", rows, columns, table.float()).to(table.dtype)
    cells = table.permute(2, 0, 1)[None].float()
    mode, antialias = ("bicubic", True) if by == "antialiased" else (by, False)
    resized = F.interpolate(cells, size=size, mode=mode, align_corners=False, antialias=antialias)
    return resized[0].permute(1, 2, 0).to(table.dtype)


def _cubic_weights(length: int, side: int, device: torch.device) -> Tensor:
    """The weights (length, side) of bicubic interpolation by (length + 0.1) / side: with `scale_factor`, `interpolate`
    cannot be exported for any size. Keys 1981, a = -0.75; cells outside have the values of the border."""
    a, centers = -0.75, (torch.arange(length, device=device) + 0.5) * (side / (length + 0.1)) - 0.5
    taps = centers.floor()[:, None] + torch.arange(-1, 3, device=device)
    x = (centers[:, None] - taps).abs()
    weights = torch.where(x <= 1, ((a + 2) * x - (a + 3)) * x**2 + 1, ((a * x - 5 * a) * x + 8 * a) * x - 4 * a)
    is_cell = taps.clamp(0, side - 1)[..., None] == torch.arange(side, device=device)
    return (weights[..., None] * is_cell).sum(1)


class LearnedPositions(nn.Module):
    """Learned row and column embeddings (DETR's `learned` option), interpolated for maps larger than the table."""

    def __init__(self, channels: int, length: int = 50) -> None:
        super().__init__()
        self.rows = nn.Parameter(torch.rand(length, channels // 2))
        self.columns = nn.Parameter(torch.rand(length, channels // 2))

    def forward(self, padding: Tensor) -> Tensor:
        """padding: (B, H, W) bool. Returns (B, H, W, channels): columns in the first half, rows in the second."""
        B, H, W = padding.shape
        rows, columns = _interpolate(self.rows, H), _interpolate(self.columns, W)
        grid = torch.cat([columns[None].expand(H, -1, -1), rows[:, None].expand(-1, W, -1)], dim=-1)
        return grid.expand(B, -1, -1, -1)


def _interpolate(table: Tensor, length: int) -> Tensor:
    if length <= len(table):
        return table[:length]
    return F.interpolate(table.T[None], size=length, mode="linear", align_corners=True)[0].T
