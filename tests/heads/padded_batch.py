"""A padded batch of images of three sizes, for tests of the DETR family."""

import torch
from torch import Tensor

from densevit.interfaces import Targets

SIZES = [(48, 64), (40, 56), (48, 32)]


def padded_batch() -> tuple[list[Tensor], Tensor, list[Targets]]:
    """One feature (3, 6, 6, 8) of stride 8, the padding mask, and random boxes of 3 classes; image 1 has none."""
    mask = torch.ones(3, 48, 64, dtype=torch.bool)
    targets: list[Targets] = []
    for i, (count, (h, w)) in enumerate(zip((3, 0, 2), SIZES, strict=True)):
        mask[i, :h, :w] = False
        low = 20 * torch.rand(count, 2)
        boxes = torch.cat([low, low + 4 + 8 * torch.rand(count, 2)], dim=1)
        targets.append({"image_id": i, "size": (h, w), "boxes": boxes, "labels": torch.randint(3, (count,))})
    return [torch.randn(3, 6, 6, 8)], mask, targets
