"""Square windows around each cell of a map, for local attention (SASA, LR-Net)."""

import torch
from torch import Tensor
from torch.nn import functional as F


def sliding_windows(x: Tensor, kernel_size: int, stride: int = 1) -> Tensor:
    """The cells of the window around each cell; cells outside the map are 0.

    x: (B, C, H, W). kernel_size: odd. stride: a window for every `stride`-th row and column. Returns (B, N, C,
    kernel_size ** 2), N = ceil(H / stride) * ceil(W / stride), windows and cells in row-major order.
    """
    windows = F.unfold(x, kernel_size, padding=kernel_size // 2, stride=stride)  # (B, C * K, N)
    return windows.transpose(1, 2).unflatten(2, (x.shape[1], kernel_size**2))


def outside(x: Tensor, kernel_size: int, stride: int = 1) -> Tensor:
    """A bias of scores, (N, kernel_size ** 2) in the dtype of x (B, C, H, W): -inf for cells outside of the map."""
    inside = sliding_windows(torch.ones_like(x[:1, :1]), kernel_size, stride)[0, :, 0]
    return torch.zeros_like(inside).masked_fill(inside == 0, -torch.inf)


def check_kernel_size(kernel_size: int) -> None:
    """Raises ValueError for a size that has no cell in the centre."""
    if kernel_size < 1 or kernel_size % 2 == 0:
        raise ValueError(f"kernel_size is {kernel_size}; it must be odd and at least 1, such as 7.")
