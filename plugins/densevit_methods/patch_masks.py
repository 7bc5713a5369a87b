"""Masks of patches for masked image modelling, random or in blocks.

An image's mask depends on its size and its `mask_seed`, which the training transform adds to the targets, but not on
other images of the batch, padding or the process. In validation an image has the same mask each time.
"""

import math
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from densevit.interfaces import Backbone, Batch, LossContext, Losses, Sample, Targets
from densevit_methods.unlabelled import Unlabelled

Masking = Callable[[int, int, torch.Generator], Tensor]
"""Makes the mask of an image from the rows and columns of its patches: (rows, columns) bool, True = masked."""


def with_mask_seed(configured: Any) -> Any:
    """The configured transform, which also adds the seed of the image's mask to the targets."""

    def transform(sample: Sample, generator: np.random.Generator, types: Any) -> Sample:
        made = configured(sample, generator, types)
        seed = int(generator.integers(2**31))
        return {"image": made["image"], "targets": {**made["targets"], "mask_seed": seed}}

    return transform


def random_masking(ratio: float) -> Masking:
    """Masks a share of an image's patches, rounded up, at random (SimMIM, MAE)."""

    def mask(rows: int, columns: int, generator: torch.Generator) -> Tensor:
        order = torch.rand(rows * columns, generator=generator).argsort()
        masked = torch.zeros(rows * columns, dtype=torch.bool)
        masked[order[: masked_count(ratio, rows * columns)]] = True
        return masked.view(rows, columns)

    return mask


def blockwise_masking(ratio: float, smallest: int = 16, least_aspect: float = 0.3) -> Masking:
    """Masks blocks until their patches are a share of the image's (BEiT, Bao et al. 2022, algorithm 1).

    As in the authors' code, a block that would exceed the share is drawn again, at most ten times. The share is often
    not reached and never exceeded; at least one patch is masked. smallest: least patches of a block, if that many
    remain. least_aspect: the least aspect ratio of a block; the largest is its inverse.
    """
    log_aspect = math.log(least_aspect)

    def mask(rows: int, columns: int, generator: torch.Generator) -> Tensor:
        def uniform(low: float, high: float) -> float:
            return low + (high - low) * float(torch.rand((), generator=generator))

        masked = torch.zeros(rows, columns, dtype=torch.bool)
        remaining, attempts = masked_count(ratio, rows * columns), 0
        while remaining and attempts < 10:
            attempts += 1
            area, aspect = uniform(min(smallest, remaining), remaining), math.exp(uniform(log_aspect, -log_aspect))
            h, w = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
            if not (0 < h <= rows and 0 < w <= columns):
                continue
            top, left = int(uniform(0, rows - h + 1)), int(uniform(0, columns - w + 1))
            block = masked[top : top + h, left : left + w]
            added = int((~block).sum())
            if 0 < added <= remaining:
                block.fill_(True)
                remaining, attempts = remaining - added, 0
        if not masked.any():
            masked[int(uniform(0, rows)), int(uniform(0, columns))] = True
        return masked

    return mask


def masked_count(ratio: float, count: int) -> int:
    """The number of masked patches: a share of `count`, rounded up without rounding errors (0.6 * 5 is 3)."""
    return math.ceil(ratio * count - 1e-9)


def mask_patches(batch: Batch, patch: int, masking: Masking) -> tuple[Tensor, Tensor]:
    """Masks patches of each image of a batch.

    patch: side in pixels. Returns the masked patches and the patches with image pixels, both (B, rows, columns) bool,
    of the padded batch, on the CPU; patches in the padding are not masked.
    """
    B, height, width = batch["padding_mask"].shape
    masked = torch.zeros(B, -(-height // patch), -(-width // patch), dtype=torch.bool)
    inside = masked.clone()
    for i, target in enumerate(batch["targets"]):
        rows, columns = (-(-side // patch) for side in target["size"])
        masked[i, :rows, :columns] = masking(rows, columns, torch.Generator().manual_seed(_seed(target)))
        inside[i, :rows, :columns] = True
    return masked, inside


def _seed(target: Targets) -> int:
    return int(target["mask_seed"]) if "mask_seed" in target else zlib.crc32(str(target["image_id"]).encode())


def pixels_of_patches(patches: Tensor, patch: int, padding_mask: Tensor) -> Tensor:
    """The pixels (B, H, W) of patches (B, rows, columns), without padding (B, H, W)."""
    height, width = padding_mask.shape[1:]
    pixels = patches.to(padding_mask.device, non_blocking=True)
    pixels = pixels.repeat_interleave(patch, 1).repeat_interleave(patch, 2)
    return pixels[:, :height, :width] & ~padding_mask


class MaskToken(nn.Module):
    """Replaces masked pixels by a learned patch, whose side is the finest stride of the backbone, s.

    A projection of s x s patches, as in ViT and Swin, maps it to one learned token per masked patch, as in the papers.
    Because it replaces pixels, it works with every backbone.
    """

    def __init__(self, backbone: Backbone, patch: int) -> None:
        """patch: side of the masked patches. Raises ValueError if it is no multiple of s."""
        super().__init__()
        side = backbone.strides[0]
        if patch < 1 or patch % side:
            raise ValueError(
                f"patch is {patch}; it must be a multiple of {side}, the finest stride of {type(backbone).__name__}, "
                "so that a patch of the backbone is masked or not."
            )
        self.token = nn.Parameter(torch.empty(3, side, side))
        nn.init.trunc_normal_(self.token, std=0.02)

    def forward(self, pixels: Tensor, masked: Tensor) -> Tensor:
        """pixels: (B, 3, H, W), normalised. masked: (B, H, W) bool. Returns (B, 3, H, W)."""
        height, width = pixels.shape[2:]
        side = self.token.shape[1]
        tiles = self.token.repeat(1, -(-height // side), -(-width // side))[:, :height, :width]
        return torch.where(masked[:, None], tiles.to(pixels.dtype), pixels)


class MaskedModelling(Unlabelled):
    """A method that masks a share of the patches of each image, and learns from the errors of masked patches or pixels.

    Raises ValueError if the share is not above 0 and below 1.
    """

    term = "reconstruction"  # the name of the loss

    def __init__(self, model: Any, mask_ratio: float) -> None:
        super().__init__(model)
        if not 0 < mask_ratio < 1:
            raise ValueError(f"mask_ratio is {mask_ratio}; a number above 0 and below 1 is expected.")

    def transform(self, configured: Any) -> Any:
        return with_mask_seed(configured)

    def training_step(self, model: Any, batch: Batch, context: LossContext) -> Losses:
        """Returns the loss, a mean over the masked patches or pixels of all processes."""
        errors, masked = self.errors(model, batch)
        return {self.term: errors.sum() / context.mean(masked.sum().float()).clamp(min=1)}

    def validation_losses(self, model: Any, batch: Batch) -> Tensor:
        errors, masked = (values.flatten(1).sum(1) for values in self.errors(model, batch))
        return errors / masked.clamp(min=1)

    def errors(self, model: Any, batch: Batch) -> tuple[Tensor, Tensor]:
        """The errors of masked patches or pixels, and whether, or how many, are masked, (B, ...) each."""
        raise NotImplementedError
