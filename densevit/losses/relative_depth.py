"""Losses on relative inverse depth, which is known up to scale and shift (MiDaS, Ranftl et al. 2020, section 5).

Each is a mean over images, as in `densevit.losses.depth`. An image adds nothing where it cannot be aligned: with less
than two known pixels, or with a prediction that is the same all over.
"""

from fractions import Fraction

import torch
from torch import Tensor

from densevit.layers.precision import autocast_off
from densevit.losses.depth import known_pixels, mean_of, mean_over_images

_FLAT = 1e-5  # a map that varies by less, as a part of its mean size, is rounding errors


def scale_and_shift_invariant(prediction: Tensor, truth: Tensor) -> Tensor:
    """Half the mean squared error after alignment by least squares (equations 3 and 4): L_ssimse.

    It does not see the sign of the prediction, which alignment turns round. prediction, truth: (B, H, W).
    """
    with autocast_off(prediction.device):
        error, known = least_squares_error(prediction, truth)
        return mean_over_images(0.5 * mean_of(error**2, known), known.flatten(1).any(1))


def trimmed(prediction: Tensor, truth: Tensor, kept: float = 0.8) -> Tensor:
    """Half the mean absolute error after robust alignment, without the largest fifth (equations 5 to 7): L_ssitrim.

    The sum over the `kept` share of an image's pixels, rounded down, is divided by the number of all of them.
    prediction, truth: (B, H, W).
    """
    with autocast_off(prediction.device):
        error, known = robust_error(prediction, truth)
        count = known.flatten(1).sum(1)
        ordered = error.abs().masked_fill(~known, torch.inf).flatten(1).sort(1).values  # (B, H*W)
        places = torch.arange(ordered.shape[1], device=ordered.device)
        share = Fraction(kept).limit_denominator(1000)
        among = places < (count * share.numerator // share.denominator)[:, None]  # exact, and without float64
        each = torch.where(among, ordered, 0.0).sum(1) / (2 * count.clamp(min=1))
        return mean_over_images(each, count > 0)


def gradient_matching(error: Tensor, known: Tensor, scales: int = 4) -> Tensor:
    """The size of the error's gradients at several scales (equation 11): depth edges lie where the truth's do.

    At each scale, every second row and column of the one before, |differences| between neighbours that are both known
    are summed along rows and columns and divided by the number of known pixels there, as the authors publish it.
    error: (B, H, W), of aligned inverse depths, or of logarithms of depth (Li and Snavely 2018, section 4.3).
    known: (B, H, W) bool.
    """
    with autocast_off(error.device):
        each = error.new_zeros(len(error), dtype=torch.float32)
        for i in range(scales):
            x, here = error[:, :: 2**i, :: 2**i].float(), known[:, :: 2**i, :: 2**i]
            x = torch.where(here, x, 0.0)
            across = ((x[:, :, 1:] - x[:, :, :-1]).abs() * (here[:, :, 1:] & here[:, :, :-1])).sum((1, 2))
            down = ((x[:, 1:] - x[:, :-1]).abs() * (here[:, 1:] & here[:, :-1])).sum((1, 2))
            each = each + (across + down) / here.sum((1, 2)).clamp(min=1)
        return mean_over_images(each, known.flatten(1).any(1))


def least_squares_error(prediction: Tensor, truth: Tensor) -> tuple[Tensor, Tensor]:
    """The prediction, scaled and shifted to the least squared error (equation 4), less the truth.

    Returns it in fp32 and where it is known, both (B, H, W): nowhere in an image that cannot be aligned.
    """
    known, truth = known_pixels(truth)
    prediction = torch.where(known, prediction.float(), 0.0)
    around = _centred(prediction, mean_of(prediction, known), known)
    wanted = _centred(truth, mean_of(truth, known), known)
    variance = mean_of(around**2, known)
    alignable = variance > _FLAT**2 * mean_of(prediction**2, known)
    scale = mean_of(around * wanted, known) / torch.where(alignable, variance, 1.0)
    return scale[:, None, None] * around - wanted, known & alignable[:, None, None]


def robust_error(prediction: Tensor, truth: Tensor) -> tuple[Tensor, Tensor]:
    """Prediction less truth, each with a median of 0 and a mean absolute deviation from it of 1 (equations 5 and 6).

    The median of an even number is the lower of the middle two. A truth that is the same all over cannot be aligned to.
    Returns as `least_squares_error` does.
    """
    known, truth = known_pixels(truth)
    own, varied = _normalised(prediction.float(), known)
    wanted, true_varied = _normalised(truth, known)
    return own - wanted, known & (varied & true_varied)[:, None, None]


def _normalised(x: Tensor, known: Tensor) -> tuple[Tensor, Tensor]:
    """(B, H, W), and whether an image varies at all, (B,)."""
    x = torch.where(known, x, 0.0)
    count = known.flatten(1).sum(1)
    ordered = x.masked_fill(~known, torch.inf).flatten(1).sort(1).values
    median = ordered.gather(1, (count[:, None] - 1).clamp(min=0) // 2)[:, 0]
    around = _centred(x, torch.where(count > 0, median, 0.0), known)
    spread = mean_of(around.abs(), known)
    varied = spread > _FLAT * mean_of(x.abs(), known)
    return around / torch.where(varied, spread, 1.0)[:, None, None], varied


def _centred(x: Tensor, centre: Tensor, known: Tensor) -> Tensor:
    """x less its image's centre (B,), and 0 where it is not known: (B, H, W)."""
    return torch.where(known, x - centre[:, None, None], 0.0)
