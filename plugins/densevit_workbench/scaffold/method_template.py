"""Template of a training method: a denoising autoencoder, to be replaced by your own losses."""

MODULE = '''\
"""A training method for densevit."""

from typing import Any

import densevit
import torch
from densevit.interfaces import Batch, LossContext, Losses
from torch import Tensor, nn


class $cls(densevit.Method):
    """Trains the backbone to remove noise from images (denoising autoencoder, Vincent et al. 2008).

    noise: standard deviation of the noise, in standard deviations of the pixels.
    """

    # densevit passes the model. The other arguments are options in YAML.
    def __init__(self, model: Any, noise: float = 0.5) -> None:
        super().__init__(model)
        if noise <= 0:
            raise ValueError(f"noise is {noise}; it must be above 0.")
        self.noise = noise
        channels, stride = model.backbone.channels[-1], model.backbone.strides[-1]  # the coarsest
        # Put your own modules here: they are trained and in checkpoints, not in the model file.
        self.decoder = nn.Sequential(nn.Conv2d(channels, 3 * stride**2, 1), nn.PixelShuffle(stride))

    def training_step(self, model: Any, batch: Batch, context: LossContext) -> Losses:
        """Returns the loss terms; their sum is minimised."""
        return {"denoising": self.errors(model, batch, torch.randn(batch["images"].shape)).mean()}

    def validation_losses(self, model: Any, batch: Batch) -> Tensor:
        """Returns the loss of each image (B,), with the same noise in each validation."""
        generator = torch.Generator().manual_seed(0)
        noise = torch.randn(batch["images"].shape[1:], generator=generator)
        return self.errors(model, batch, noise)

    def errors(self, model: Any, batch: Batch, noise: Tensor) -> Tensor:
        """The mean squared error of each image (B,), without padding. noise: (3, H, W), or (B, ...)."""
        inside = ~batch["padding_mask"][:, None]  # (B, 1, H, W)
        pixels = model.normalise(batch["images"], batch["padding_mask"])
        features = model.backbone(pixels + self.noise * noise.to(pixels) * inside)
        predicted = self.decoder(features[-1])[..., : pixels.shape[2], : pixels.shape[3]].float()
        squares = (predicted - pixels.float()).square() * inside
        return squares.sum((1, 2, 3)) / (3 * inside.sum((1, 2, 3)))
'''

CONFIG = """\
# $cls pretrains the backbone of detr_swin on the built-in scenes, without labels:
#   densevit train configs/$name.yaml
# On your images, from which a detector then starts:
#   densevit train configs/$name.yaml data.name=images data.root=~/photos --run-dir runs/$name
#   densevit train detr_swin backbone.weights=runs/$name
base: pretrain/simmim_swin
method: {name: $name}
trainer: {max_images: 16000}
"""
