"""Training of a feature upsampler: reconstruction of a frozen backbone's features (NAF, Chambon et al. 2025)."""

from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor
from torch.nn import functional as F

from densevit.errors import ConfigError
from densevit.interfaces import Batch, LossContext, Losses, Method

_FACTOR = 2  # between the features that are upsampled and those that are reconstructed


@runtime_checkable
class Upsampler(Protocol):
    """A neck that upsamples the last feature by any factor, guided by an image."""

    def upsample(self, images: Tensor, features: Tensor, factor: int) -> Tensor:
        """images: (B, 3, h * n, w * n), as a neck gets them. features: (B, C, h, w). Returns (B, C, h * factor, w *
        factor)."""
        ...


class NAFReconstruction(Method):
    """Trains necks such as `naf` without labels, by the features of a frozen backbone.

    Features of images of half the size are upsampled by 2 and compared with those of the images: the loss is the mean
    squared error (section 3.3; the authors' images have 512 x 512 pixels).

    Heads are trained with their losses on labelled images, but not through these necks, so
    that a neck fits any head, and other backbones: `heads.NAME.neck.weights` takes the run. Images of a batch are
    cropped to the largest size of whole cells that all of them have, so that no padding is compared.
    """

    needs_heads = True

    def __init__(self, model: Any) -> None:
        super().__init__(model)
        self.names = [name for name, neck in model.necks.items() if isinstance(neck, Upsampler)]
        if not self.names:
            raise ConfigError("method naf trains a neck, and no head has one. Fix: heads.NAME.neck.name=naf.")
        if any(parameter.requires_grad for parameter in model.backbone.parameters()):
            raise ConfigError("method naf reconstructs features of a frozen backbone. Fix: backbone.freeze=true.")
        if model.backbone.input_size is not None:
            raise ConfigError("method naf needs features of images of two sizes, and the backbone has a fixed one.")
        self.cell = _FACTOR * model.backbone.strides[-1]

    def training_step(self, model: Any, batch: Batch, context: LossContext) -> Losses:
        """Returns `reconstruction`, a mean over images, values and necks, and the losses of the heads."""
        padding_mask, outputs = batch["padding_mask"], {}
        errors = self.errors(model, batch)
        losses = {"reconstruction": errors.sum() / context.mean(errors.new_tensor(float(len(errors))))}
        features = model.features(batch)
        for name, head in model.heads.items():
            with torch.set_grad_enabled(name not in self.names):
                inputs = model.head_inputs(name, features, padding_mask, batch["images"])
            outputs[name] = head(inputs, padding_mask, batch["targets"])
        return losses | model.losses_of(outputs, batch["targets"], context)

    def errors(self, model: Any, batch: Batch) -> Tensor:
        """The mean squared error of each image (B,), the mean over the necks."""
        inside = ~batch["padding_mask"]
        height, width = (max(self.cell, int(inside.any(axis).sum(1).min()) // self.cell * self.cell) for axis in (2, 1))
        pixels, images = (
            normalise(batch["images"], batch["padding_mask"])[..., :height, :width]
            for normalise in (model.normalise, model.neck_images)
        )
        with torch.no_grad():
            smaller = F.interpolate(pixels, scale_factor=1 / _FACTOR, mode="bilinear", align_corners=False)
            targets, coarse = (model.backbone(x)[-1].float() for x in (pixels, smaller))
        predictions = [model.necks[name].upsample(images, coarse, _FACTOR).float() for name in self.names]
        return torch.stack([(x - targets).square().mean((1, 2, 3)) for x in predictions]).mean(0)
