"""Losses for metric depth: L1 and the scale-invariant logarithmic error (SILog).

Each is computed in fp32 as a mean over the valid pixels of an image, then over the images with a valid pixel, of all
processes, so that it does not depend on how images are distributed over processes. A pixel is valid if its ground truth
is positive and finite. For relative depth see `densevit.losses.relative_depth`.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from densevit.errors import DataError
from densevit.layers.precision import autocast_off
from densevit.losses.argument_shapes import check_shapes
from densevit.losses.context import LossContext
from densevit.losses.target_maps import padded_maps

_MIN_DEPTH = 1e-6  # metres, lower bound inside logarithms


def depth_maps(
    targets: Sequence[Mapping[str, Any]], device: torch.device, canonical_focal: float | None = None
) -> Tensor:
    """Pads the `depth` maps of a batch to the largest size with 0 (invalid): (B, H, W) float32.

    Images without the key are invalid everywhere. canonical_focal: pixels, of the camera whose depth the maps get.
    """
    targets = [
        {**target, "depth": canonical_depth(target, canonical_focal)} if "depth" in target else target
        for target in targets
    ]
    return padded_maps(targets, "depth", 0, torch.float32, device)


def canonical_depth(target: Mapping[str, Any], canonical_focal: float | None) -> Any:
    """The depth of a target as a camera of the focal length `canonical_focal`, in pixels, sees it: depth times
    canonical_focal / focal (Metric3D, Yin et al. 2023, section 3.2, CSTM-label). None: the depth. Raises DataError as
    `focal_of`."""
    return target["depth"] if canonical_focal is None else target["depth"] * (canonical_focal / focal_of(target))


def focal_of(target: Mapping[str, Any]) -> Any:
    """The `focal` of a target. Raises DataError without it."""
    if "focal" not in target:
        raise DataError(
            f"image {target.get('image_id')!r} has no focal length, which depth of a canonical camera needs. Fix: for "
            "predictions --focal PIXELS, predict(focal=PIXELS) or EXIF; for a data set data.focal=PIXELS, a third "
            "column of data.list_file, focal.csv or focal.json beside the images, EXIF, or targets['focal']."
        )
    return target["focal"]


def l1(prediction: Tensor, truth: Tensor, context: LossContext = LossContext()) -> Tensor:
    """Mean absolute error. prediction, truth: (B, H, W)."""
    check_shapes(truth=(truth, "B H W"), prediction=(prediction, "B H W"))
    with autocast_off(prediction.device):
        valid, truth = valid_pixels(truth)
        return mean_over_images(
            masked_mean((prediction.float() - truth).abs(), valid), valid.flatten(1).any(1), context
        )


def silog(
    prediction: Tensor, truth: Tensor, context: LossContext = LossContext(), variance_focus: float = 0.85
) -> Tensor:
    """Scale-invariant log error, 10 sqrt(mean g^2 - variance_focus (mean g)^2) with g = log prediction - log truth.

    The formula of BTS (Lee et al. 2019, equation 4) and AdaBins, which average over all pixels of a batch. Eigen et al.
    2014 (equation 4) use no root, no factor and a focus of 0.5.
    prediction, truth: (B, H, W) in metres. Pixels whose truth is not positive and finite are ignored, such as 0.
    """
    check_shapes(truth=(truth, "B H W"), prediction=(prediction, "B H W"))
    with autocast_off(prediction.device):
        valid, truth = valid_pixels(truth)
        error = torch.where(valid, log_error(prediction, truth), 0.0)
        mean = masked_mean(error, valid)
        variance = masked_mean((error - mean[:, None, None]) ** 2, valid)
        squared = variance + (1 - variance_focus) * mean**2
        positive = squared > 0  # the gradient of the root is infinite at 0
        each = torch.where(positive, 10 * torch.where(positive, squared, 1.0).sqrt(), 0.0)
        return mean_over_images(each, valid.flatten(1).any(1), context)


def log_error(prediction: Tensor, truth: Tensor) -> Tensor:
    """log prediction - log truth in fp32. truth: (B, H, W) fp32, as `valid_pixels` returns it."""
    return prediction.float().clamp(min=_MIN_DEPTH).log() - truth.log()


def valid_pixels(truth: Tensor) -> tuple[Tensor, Tensor]:
    """Returns the mask of positive, finite ground truth, and the truth in fp32, 1 where invalid; both (B, H, W)."""
    truth = truth.float()
    valid = (truth > 0) & truth.isfinite()
    return valid, torch.where(valid, truth, 1.0)


def masked_mean(x: Tensor, valid: Tensor) -> Tensor:
    """Mean over the valid pixels of each image, (B,); 0 if there are none. x, valid: (B, H, W)."""
    return torch.where(valid, x, 0.0).flatten(1).sum(1) / valid.flatten(1).sum(1).clamp(min=1)


def mean_over_images(each: Tensor, counted: Tensor, context: LossContext) -> Tensor:
    """Mean of (B,) values over the counted images of all processes; 0 (connected to the graph) if none.

    The number of counted images is `images` in `Head.loss_counts`.
    """
    total = torch.where(counted, each, 0.0).sum()
    [count] = context.mean_counts(images=counted.sum().float())
    return total / count.clamp(min=1e-6)
