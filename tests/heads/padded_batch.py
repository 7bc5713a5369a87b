"""Batches for tests of heads: a padded one of images of three sizes, and features of images without padding."""

from collections.abc import Sequence

import torch
from torch import Tensor

from densevit.interfaces import Class, Head, Losses, Outputs, Targets
from densevit.losses.context import LossContext

CLASSES = [Class(name, i, (0, 0, 0)) for i, name in enumerate("abcd")]
SIZES = [(48, 64), (40, 56), (48, 32)]


def padded_batch(
    counts: Sequence[int] = (3, 0, 2),
    levels: Sequence[tuple[int, int]] = ((6, 8),),
    sizes: Sequence[tuple[int, int]] = SIZES,
    num_classes: int = 3,
) -> tuple[list[Tensor], Tensor, list[Targets]]:
    """Features of (channels, stride), the padding mask, and random boxes. counts: the number of boxes of each image."""
    sizes = sizes[: len(counts)]
    H, W = (max(size[axis] for size in sizes) for axis in (0, 1))
    mask = torch.ones(len(sizes), H, W, dtype=torch.bool)
    targets: list[Targets] = []
    for i, (count, (h, w)) in enumerate(zip(counts, sizes, strict=True)):
        mask[i, :h, :w] = False
        low = torch.rand(count, 2) * torch.tensor([w - 12, h - 12]).clamp(min=0)
        boxes = torch.cat([low, low + 4 + 8 * torch.rand(count, 2)], dim=1)
        labels = torch.randint(num_classes, (count,))
        targets.append(
            {"image_id": i, "size": (h, w), "original_size": (2 * h, 2 * w), "boxes": boxes, "labels": labels}
        )
    features = [torch.randn(len(sizes), channels, -(-H // s), -(-W // s)) for channels, s in levels]
    return features, mask, targets


def make_features(levels: Sequence[Sequence[int]], size: tuple[int, int], B: int = 2) -> list[Tensor]:
    """Random features of (channels, strides) of images of that size."""
    return [torch.randn(B, c, -(-size[0] // s), -(-size[1] // s)) for c, s in zip(*levels, strict=True)]


def no_padding(size: tuple[int, int], B: int = 2) -> Tensor:
    return torch.zeros(B, *size, dtype=torch.bool)


def perturbed(head: Head, spread: float = 0.1) -> Head:
    """No layer starts with weights of zero or as the identity, which would hide errors."""
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.add_(spread * torch.randn_like(parameter))
    return head


def step(head: Head, features: list[Tensor], mask: Tensor, targets: list[Targets]) -> tuple[Outputs, Losses]:
    """Forward and backward; every trained parameter has a finite gradient after it."""
    outputs = head(features, mask, targets)
    losses = head.loss(outputs, targets, LossContext())
    head.zero_grad()
    torch.stack(list(losses.values())).sum().backward()
    for name, parameter in head.named_parameters():
        assert (parameter.grad is not None) == parameter.requires_grad, f"{name} is not connected to the loss"
        assert parameter.grad is None or parameter.grad.isfinite().all(), name
    return outputs, losses
