"""Masked image modelling (SimMIM, Xie et al. 2022)."""

import zlib

import torch
from torch import Tensor, nn
from torch.nn import functional

from densevit.interfaces import Batch, LossContext, Losses, Method


class SimMIM(Method):
    """Reconstructs the masked pixels of images without labels, with a linear decoder and an L1 loss (SimMIM).

    The paper replaces patch embeddings by a learned token. Here pixels are replaced by a learned colour, so that every
    backbone can be trained.

    mask_ratio: the share of the patches that are masked. patch: the side of a patch in pixels.
    """

    # densevit passes the model. The other arguments are options in YAML, checked against their annotations.
    def __init__(self, model: nn.Module, mask_ratio: float = 0.6, patch: int = 32) -> None:
        super().__init__(model)
        if not 0 < mask_ratio < 1 or patch < 1:
            raise ValueError(f"mask_ratio is {mask_ratio} and patch is {patch}; 0 ... 1 and at least 1 are expected.")
        self.mask_ratio, self.patch = mask_ratio, patch
        channels, stride = model.backbone.channels[-1], model.backbone.strides[-1]  # of the coarsest feature
        self.mask_token = nn.Parameter(torch.zeros(3, 1, 1))  # 0 is the mean colour
        self.decoder = nn.Sequential(nn.Conv2d(channels, 3 * stride**2, 1), nn.PixelShuffle(stride))

    def training_step(self, model: nn.Module, batch: Batch, context: LossContext) -> Losses:
        """Returns the loss terms; their sum is minimised."""
        padding = batch["padding_mask"]
        masked = self.masked_pixels(torch.rand(self.grid(padding), device=padding.device), padding)
        return {"reconstruction": self.errors(model, batch, masked).sum() / (3 * masked.sum()).clamp(min=1)}

    def validation_losses(self, model: nn.Module, batch: Batch) -> Tensor:
        """Returns the loss of each image (B,). Each validation masks the same patches."""
        padding = batch["padding_mask"]
        seeds = [zlib.crc32(str(target["image_id"]).encode()) for target in batch["targets"]]
        _, *grid = self.grid(padding)
        scores = torch.stack([torch.rand(grid, generator=torch.Generator().manual_seed(seed)) for seed in seeds])
        masked = self.masked_pixels(scores.to(padding.device), padding)
        return self.errors(model, batch, masked).sum((1, 2, 3)) / (3 * masked.sum((1, 2))).clamp(min=1)

    def grid(self, padding_mask: Tensor) -> tuple[int, int, int]:
        """The number of images, and the numbers of rows and columns of patches that cover them."""
        count, height, width = padding_mask.shape
        return count, -(-height // self.patch), -(-width // self.patch)

    def masked_pixels(self, scores: Tensor, padding_mask: Tensor) -> Tensor:
        """The pixels (B, H, W) of the patches inside the image with the highest scores (B, rows, columns)."""
        _, height, width = padding_mask.shape
        inside = ~padding_mask[:, :: self.patch, :: self.patch]  # (B, rows, columns), at the first pixel of each patch
        ranks = scores.masked_fill(~inside, -1.0).flatten(1).argsort(1, descending=True).argsort(1).view_as(scores)
        masked = ranks < self.mask_ratio * inside.sum((1, 2), keepdim=True)
        masked = masked.repeat_interleave(self.patch, 1).repeat_interleave(self.patch, 2)
        return masked[:, :height, :width] & ~padding_mask

    def errors(self, model: nn.Module, batch: Batch, masked: Tensor) -> Tensor:
        """The absolute errors of the masked pixels (B, 3, H, W), normalised as the backbone expects; 0 elsewhere."""
        pixels = model.normalise(batch["images"], batch["padding_mask"])
        features = model.backbone(torch.where(masked[:, None], self.mask_token, pixels))
        predicted = self.decoder(features[-1])[..., : pixels.shape[2], : pixels.shape[3]]
        return functional.l1_loss(predicted.float(), pixels.float(), reduction="none") * masked[:, None]
