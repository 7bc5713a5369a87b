"""Masked image modelling (SimMIM, Xie et al. 2022)."""

import zlib

import torch
from torch import Tensor, nn
from torch.nn import functional

from densevit.interfaces import Batch, Losses, Method


class SimMIM(Method):
    """Reconstructs the masked pixels of images without labels, with a linear decoder and an L1 loss (SimMIM).

    The paper masks patch embeddings. Here the pixels themselves are replaced by a learned colour, so that every
    backbone can be trained.

    mask_ratio: the share of the patches that are masked. patch: their side in pixels.
    """

    def __init__(self, model: nn.Module, mask_ratio: float = 0.6, patch: int = 32) -> None:
        super().__init__(model)
        if not 0 < mask_ratio < 1 or patch < 1:
            raise ValueError(f"mask_ratio is {mask_ratio} and patch is {patch}; 0 ... 1 and at least 1 are expected.")
        self.mask_ratio, self.patch = mask_ratio, patch
        channels, stride = model.backbone.channels[-1], model.backbone.strides[-1]
        self.mask_token = nn.Parameter(torch.zeros(3, 1, 1))  # 0 is the mean colour
        self.decoder = nn.Sequential(nn.Conv2d(channels, 3 * stride**2, 1), nn.PixelShuffle(stride))

    def training_step(self, model: nn.Module, batch: Batch) -> Losses:
        grid = self.grid(batch["images"])
        masked = self.mask(torch.rand(grid, device=batch["images"].device), batch["padding_mask"])
        errors = self.errors(model, batch, masked)
        return {"reconstruction": errors.sum() / (3 * masked.sum()).clamp(min=1)}

    def validation_losses(self, model: nn.Module, batch: Batch) -> Tensor:
        _, *grid = self.grid(batch["images"])
        scores = [torch.rand(grid, generator=generator_of(target["image_id"])) for target in batch["targets"]]
        masked = self.mask(torch.stack(scores).to(batch["images"].device), batch["padding_mask"])
        return self.errors(model, batch, masked).sum((1, 2, 3)) / (3 * masked.sum((1, 2))).clamp(min=1)

    def grid(self, images: Tensor) -> tuple[int, int, int]:
        """The number of images (B, 3, H, W), and of rows and columns of patches that cover them."""
        count, _, height, width = images.shape
        return count, -(-height // self.patch), -(-width // self.patch)

    def mask(self, scores: Tensor, padding_mask: Tensor) -> Tensor:
        """The masked pixels (B, H, W), bool: the patches with the highest scores (B, rows, columns), without padding.

        Patches in the padding are not counted.
        """
        _, height, width = padding_mask.shape
        inside = ~padding_mask[:, :: self.patch, :: self.patch].flatten(1)  # (B, N), of each patch's first pixel
        scores = scores.flatten(1).masked_fill(~inside, -1.0)
        rank = scores.argsort(1, descending=True).argsort(1)
        masked = (rank < self.mask_ratio * inside.sum(1, keepdim=True)).view(-1, *self.grid(padding_mask[:, None])[1:])
        masked = masked.repeat_interleave(self.patch, 1).repeat_interleave(self.patch, 2)
        return masked[:, :height, :width] & ~padding_mask

    def errors(self, model: nn.Module, batch: Batch, masked: Tensor) -> Tensor:
        """The absolute error of each normalised pixel (B, 3, H, W); 0 where it is not masked."""
        pixels = model.normalise(batch["images"], batch["padding_mask"])
        features = model.backbone(torch.where(masked[:, None], self.mask_token, pixels))
        predicted = self.decoder(features[-1])[..., : pixels.shape[2], : pixels.shape[3]]
        return functional.l1_loss(predicted.float(), pixels.float(), reduction="none") * masked[:, None]


def generator_of(image_id: int | str) -> torch.Generator:
    """A generator that depends on the image only, so that each validation has the same masks."""
    return torch.Generator().manual_seed(zlib.crc32(str(image_id).encode()))
