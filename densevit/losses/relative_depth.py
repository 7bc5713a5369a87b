"""Losses for relative inverse depth, up to scale and shift (MiDaS, Ranftl et al. 2020, section 5).

Each is a mean over images, as in `densevit.losses.depth`. Images that cannot be aligned are excluded: those with
fewer than two valid pixels, or with a constant prediction or ground truth.
"""

from fractions import Fraction

import torch
from torch import Tensor

from densevit.layers.precision import autocast_off
from densevit.losses.argument_shapes import check_shapes
from densevit.losses.context import LossContext
from densevit.losses.depth import masked_mean, mean_over_images, valid_pixels

_FLAT = 1e-5  # relative variation below which a map counts as constant (rounding errors)


def scale_and_shift_invariant(
    prediction: Tensor, truth: Tensor, context: LossContext = LossContext(), keep: float = 0.8
) -> Tensor:
    """Half the mean absolute error after robust alignment, without the largest fifth (equations 5 to 7): L_ssitrim.

    The sum over the fraction `keep` of the pixels of an image, rounded down, is divided by the number of all pixels.
    prediction, truth: (B, H, W), inverse depth up to scale and shift. Pixels whose truth is not positive and finite are
    ignored, such as 0. MiDaS adds half the `gradient_matching` of the `robust_error`.
    """
    with autocast_off(prediction.device):
        error, valid = robust_error(prediction, truth)
        count = valid.flatten(1).sum(1)
        ordered = error.abs().masked_fill(~valid, torch.inf).flatten(1).sort(1).values  # (B, H*W)
        ranks = torch.arange(ordered.shape[1], device=ordered.device)
        share = Fraction(keep).limit_denominator(1000)
        selected = ranks < (count * share.numerator // share.denominator)[:, None]  # exact without float64
        each = torch.where(selected, ordered, 0.0).sum(1) / (2 * count.clamp(min=1))
        return mean_over_images(each, count > 0, context)


def gradient_matching(error: Tensor, valid: Tensor, context: LossContext = LossContext(), scales: int = 4) -> Tensor:
    """Multi-scale gradient matching (equation 11): sharp depth edges that coincide with the ground truth.

    Each scale has every second row and column of the previous scale. Absolute differences of neighbouring valid pixels
    are summed along rows and columns and divided by the number of valid pixels, as in the published code.
    error: (B, H, W), of aligned inverse depth, or of log depth (Li and Snavely 2018, section 4.3).
    valid: (B, H, W) bool.
    """
    check_shapes(error=(error, "B H W"), valid=(valid, "B H W"))
    with autocast_off(error.device):
        each = error.new_zeros(len(error), dtype=torch.float32)
        for i in range(scales):
            x, mask = error[:, :: 2**i, :: 2**i].float(), valid[:, :: 2**i, :: 2**i]
            x = torch.where(mask, x, 0.0)
            horizontal = ((x[:, :, 1:] - x[:, :, :-1]).abs() * (mask[:, :, 1:] & mask[:, :, :-1])).sum((1, 2))
            vertical = ((x[:, 1:] - x[:, :-1]).abs() * (mask[:, 1:] & mask[:, :-1])).sum((1, 2))
            each = each + (horizontal + vertical) / mask.sum((1, 2)).clamp(min=1)
        return mean_over_images(each, valid.flatten(1).any(1), context)


def robust_error(prediction: Tensor, truth: Tensor) -> tuple[Tensor, Tensor]:
    """Error after robust alignment: both maps with median 0 and mean absolute deviation 1 (equations 5 and 6).

    For an even number of pixels, the median is the lower of the middle two. prediction, truth: (B, H, W). Returns the
    error in fp32 and the valid mask, both (B, H, W); no pixel of an image that cannot be aligned is valid.
    """
    check_shapes(truth=(truth, "B H W"), prediction=(prediction, "B H W"))
    valid, truth = valid_pixels(truth)
    normalised, varied = _normalised(prediction.float(), valid)
    target, target_varied = _normalised(truth, valid)
    return normalised - target, valid & (varied & target_varied)[:, None, None]


def _normalised(x: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
    """Returns x with median 0 and mean absolute deviation 1, (B, H, W), and whether x varies, (B,)."""
    x = torch.where(valid, x, 0.0)
    count = valid.flatten(1).sum(1)
    ordered = x.masked_fill(~valid, torch.inf).flatten(1).sort(1).values
    median = ordered.gather(1, (count[:, None] - 1).clamp(min=0) // 2)[:, 0].where(count > 0, 0.0)
    centred = torch.where(valid, x - median[:, None, None], 0.0)
    spread = masked_mean(centred.abs(), valid)
    varied = spread > _FLAT * masked_mean(x.abs(), valid)
    return centred / torch.where(varied, spread, 1.0)[:, None, None], varied
