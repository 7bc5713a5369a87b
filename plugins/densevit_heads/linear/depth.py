"""A linear head for metric depth."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from densevit.interfaces import Class, LossContext, Losses, Outputs, Targets
from densevit.layers.precision import at_least_fp32, autocast_off
from densevit.losses.depth import masked_mean, mean_over_images, valid_pixels
from densevit.set_prediction.limits import check_counts
from densevit_heads.linear.layer import LinearLayer
from densevit_heads.parts.depth_head import Camera, DepthHead

_SMOOTHING = 0.1  # added to each bin, as in AdaBins
_EPS = 1e-3  # metres, added inside logarithms
_WARMUP = 100  # steps without the variance


class LinearDepth(DepthHead):
    """Metric depth by batch norm and one linear layer on the cells of a backbone's maps.

    The head of the linear evaluation of DINOv3 (Siméoni et al. 2025, section 6.1). The layer gives weights of `bins`
    depths, evenly spaced between min_depth and max_depth: relu(x) + 0.1, divided by its sum. Depth is the weighted
    mean, in metres, upsampled bilinearly to pixels. Ground truth outside the range is ignored.

    The loss is DINOv3's, sqrt(var g + 0.15 (mean g)^2) with g = log(prediction + 0.001) - log(truth + 0.001), without
    the variance in the first 100 steps. It is computed per image; DINOv3 computes it per process, over its two images.

    features: numbers of the maps, from 1; None: the last. Coarser maps are upsampled to the first of them.
    camera, canonical_focal: the parameters of `DepthHead`.
    """

    def __init__(
        self,
        channels: Sequence[int],
        strides: Sequence[int],
        classes: Sequence[Class] = (),
        features: tuple[int, ...] | None = None,
        bins: int = 256,
        min_depth: float = 1e-3,
        max_depth: float = 10.0,
        camera: Camera | None = None,
        canonical_focal: float = 300.0,
    ) -> None:
        super().__init__(channels, strides, classes, camera, canonical_focal)
        check_counts({"bins": bins}, 2)
        if not 0 < min_depth < max_depth:
            raise ValueError(f"min_depth is {min_depth:g} and max_depth {max_depth:g}; expected 0 < min < max.")
        self.min_depth, self.max_depth = min_depth, max_depth
        self.largest_depth = max_depth
        self.linear = LinearLayer(channels, strides, bins, features)

    def forward(self, features: list[Tensor], padding_mask: Tensor, targets: list[Targets] | None = None) -> Outputs:
        """Returns `depth` (B, 1, h, w) in fp32, in metres, at the stride of the first map."""
        x = self.linear(features)
        with autocast_off(x.device):
            weights = F.relu(at_least_fp32(x)) + _SMOOTHING
            depths = torch.linspace(self.min_depth, self.max_depth, x.shape[1], device=x.device, dtype=weights.dtype)
            depth = torch.einsum("bkhw,k->bhw", weights / weights.sum(1, keepdim=True), depths)
        return {"depth": depth[:, None]}

    def loss_counts(self, targets: list[Targets]) -> dict[str, float]:
        """The number of images with a valid pixel."""
        maps = [self._in_range(x) for x in self.depths(targets)]
        return {"images": float(sum(bool(valid_pixels(x)[0].any()) for x in maps))}

    def loss(self, outputs: Outputs, targets: list[Targets], context: LossContext) -> Losses:
        """Returns `log_depth`, a mean over images."""
        truth = self._in_range(self.truth(targets, outputs["depth"].device))
        prediction = self.maps(outputs, (truth.shape[1], truth.shape[2]))[:, 0]
        return {"log_depth": log_depth_loss(prediction, truth, context)}

    def _in_range(self, truth: Tensor) -> Tensor:
        """Depth in metres, 0 (invalid) outside of the range of the bins."""
        return torch.where((truth >= self.min_depth) & (truth <= self.max_depth), truth, 0.0)

    def maps(self, outputs: Outputs, size: tuple[int, int]) -> Tensor:
        """Depth (B, 1, *size) in fp32. size: (H, W) in pixels of the padded batch or a top-left crop of it."""
        return self.linear.to_pixels(outputs["depth"].float(), size)


def log_depth_loss(prediction: Tensor, truth: Tensor, context: LossContext) -> Tensor:
    """The loss of `LinearDepth`. prediction, truth: (B, H, W) in metres; truth 0: unknown."""
    with autocast_off(prediction.device):
        valid, truth = valid_pixels(truth)
        error = torch.where(valid, (prediction.float() + _EPS).log() - (truth + _EPS).log(), 0.0)
        mean, pixels = masked_mean(error, valid), valid.flatten(1).sum(1)
        squared = 0.15 * mean**2
        if context.step >= _WARMUP:
            unbiased = pixels / (pixels - 1).clamp(min=1)
            squared = squared + unbiased * masked_mean((error - mean[:, None, None]) ** 2, valid)
        positive = squared > 0  # the gradient of the root is infinite at 0
        each = torch.where(positive, torch.where(positive, squared, 1.0).sqrt(), 0.0)
        return mean_over_images(each, pixels > 0, context)
