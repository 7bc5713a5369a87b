"""Shifted windows (Swin Transformer, Liu et al. 2021, section 3.2)."""

import torch
from torch import Tensor


def partition(x: Tensor, window: int) -> Tensor:
    """Cuts a map into square windows.

    x: (B, H, W, C), with H and W multiples of `window`.
    Returns (B * H/M * W/M, M*M, C), the windows row by row. `merge` undoes it.
    """
    B, H, W, C = x.shape
    x = x.view(B, H // window, window, W // window, window, C)
    return x.transpose(2, 3).reshape(-1, window * window, C)


def merge(windows: Tensor, window: int, height: int, width: int) -> Tensor:
    """Puts windows back into a map, (B, H, W, C): the inverse of `partition`."""
    rows, columns = height // window, width // window
    x = windows.view(-1, rows, columns, window, window, windows.shape[-1])
    return x.transpose(2, 3).reshape(-1, height, width, windows.shape[-1])


def shift_mask(height: int, width: int, window: int, shift: tuple[int, int], device: torch.device) -> Tensor:
    """What a window of a cyclically shifted map must not see: parts that were no neighbours before it (figure 4).

    shift: (rows, columns) by which the map was rolled up and left; 0 for an axis that was not.
    Returns (H/M * W/M, M*M, M*M): 0 between tokens of one region, -100 between regions, as published weights expect.
    """
    rows, columns = (_parts(size, window, step, device) for size, step in ((height, shift[0]), (width, shift[1])))
    region = 3 * rows[:, None] + columns
    tokens = partition(region[None, :, :, None], window).squeeze(-1)  # (windows, M*M)
    return torch.where(tokens[:, :, None] == tokens[:, None, :], 0.0, -100.0)


def _parts(size: int, window: int, step: int, device: torch.device) -> Tensor:
    """(size,): which part a row or column is of; 1 and 2 share the last window, 2 having come from the other end."""
    place = torch.arange(size, device=device)
    if not step:
        return torch.zeros_like(place)
    return (place >= size - window).long() + (place >= size - step).long()


def relative_position_index(window: int) -> Tensor:
    """For each pair of tokens in a window, the row of the bias table that holds their offset. (M*M, M*M) long."""
    rows, columns = torch.meshgrid(torch.arange(window), torch.arange(window), indexing="ij")
    place = torch.stack([rows.flatten(), columns.flatten()])  # (2, M*M)
    offset = place[:, :, None] - place[:, None, :] + window - 1
    return offset[0] * (2 * window - 1) + offset[1]
