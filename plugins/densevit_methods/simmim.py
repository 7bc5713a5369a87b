"""SimMIM: a simple framework for masked image modeling (Xie et al. 2022)."""

from typing import Any

from torch import Tensor, nn

from densevit.interfaces import Batch
from densevit_methods.patch_masks import (
    MaskedModelling,
    MaskToken,
    mask_patches,
    pixels_of_patches,
    random_masking,
)


class SimMIM(MaskedModelling):
    """Predicts the masked pixels of an image from the backbone's coarsest feature, by one linear layer.

    The loss is the mean absolute error of masked pixels, normalised as the backbone expects (section 3.4). The mask
    token replaces pixels instead of the patch embedding, for any backbone; see `MaskToken`.

    mask_ratio: share of the patches of an image that are masked. patch: side of a patch in pixels, a multiple of the
        backbone's finest stride (section 4.1.1: 32 and 0.6).
    """

    def __init__(self, model: Any, mask_ratio: float = 0.6, patch: int = 32) -> None:
        super().__init__(model, mask_ratio)
        self.patch, self.masking = patch, random_masking(mask_ratio)
        self.mask_token = MaskToken(model.backbone, patch)
        channels, stride = model.backbone.channels[-1], model.backbone.strides[-1]
        self.decoder = nn.Sequential(nn.Conv2d(channels, 3 * stride**2, 1), nn.PixelShuffle(stride))

    def errors(self, model: Any, batch: Batch) -> tuple[Tensor, Tensor]:
        """The sums of the absolute errors of masked values, and the numbers of these values, (B, 1) each."""
        padding = batch["padding_mask"]
        patches, _ = mask_patches(batch, self.patch, self.masking)
        masked = pixels_of_patches(patches, self.patch, padding)  # (B, H, W)
        pixels = model.normalise(batch["images"], padding)
        feature = model.backbone(self.mask_token(pixels, masked))[-1]
        predicted = self.decoder(feature)[..., : pixels.shape[2], : pixels.shape[3]]
        errors = (predicted.float() - pixels.float()).abs() * masked[:, None]
        return errors.sum((1, 2, 3))[:, None], 3.0 * masked.sum((1, 2))[:, None]
