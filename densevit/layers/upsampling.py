"""Upsampling of maps by a ratio of strides, with cells at their centres or at their first pixels."""

from torch import Tensor
from torch.nn import functional as F


def upsampled(x: Tensor, ratio: int, size: tuple[int, int], align_corners: bool = False) -> Tensor:
    """Bilinear upsampling by a ratio of strides, cropped to the cells of the finer map: (B, C, *size).

    align_corners: cell i of the coarse map is at cell `ratio` * i of the fine one, which is the position of its first
    pixel; otherwise the centres of cells have their positions in the image.
    """
    if align_corners and ratio > 1:
        grid = (x.shape[2] * ratio + 1, x.shape[3] * ratio + 1)
        x = F.interpolate(F.pad(x, (0, 1, 0, 1), "replicate"), size=grid, mode="bilinear", align_corners=True)
    elif ratio > 1:
        x = F.interpolate(x, scale_factor=ratio, mode="bilinear", align_corners=False)
    return x[..., : size[0], : size[1]]
