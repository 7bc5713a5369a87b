"""Resampling of images in which pixels without data, missing pixels, are NaN."""

from collections.abc import Callable

from torch import Tensor

_LARGEST = 1e38  # in place of infinity, which times a weight of 0 is NaN
_ROUNDING = 1e-6  # of a sum of weights


def resampled(images: Tensor, resample: Callable[[Tensor], Tensor]) -> Tensor:
    """Returns `resample(images)`, or `valid_mean` if pixels are missing in it.

    resample: linear, with weights of at least 0 and a sum of 1, such as bilinear resizing.
    """
    result = resample(images)
    if images.is_floating_point() and bool(result.amax().isnan()):  # faster than isnan().any()
        return valid_mean(images, resample)
    return result


def valid_mean(images: Tensor, resample: Callable[[Tensor], Tensor]) -> Tensor:
    """Returns the mean of the valid pixels under the kernel of `resample`, weighted by it; NaN where there is none.

    Equals `resample(images)` where all pixels under the kernel are valid. No branches, so that it can be exported.
    """
    values = resample(images.nan_to_num(0.0, _LARGEST, -_LARGEST))
    weights = resample((~images.isnan()).to(images.dtype))
    weights.masked_fill_((weights - 1).abs_() < _ROUNDING, 1.0)
    return values.div_(weights).masked_fill_(weights < _ROUNDING, float("nan"))
