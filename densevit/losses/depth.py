"""Losses on maps of metric depth: L1, berHu and the scale-invariant logarithmic error.

Each is a mean over an image's known pixels, and then over the images that have one, of all processes; in fp32. So it is
the same however images are shared out over batches and processes. A pixel is known where the truth is above 0 and
finite; an image without such a pixel adds nothing, and what a prediction is there never matters. What goes by one image
alone: `densevit.losses.relative_depth`.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from densevit.layers.precision import autocast_off
from densevit.losses.distributed import mean_over_processes

_LEAST = 1e-6  # metres: what a logarithm is taken of


def depth_maps(targets: Sequence[Mapping[str, Any]], device: torch.device) -> Tensor:
    """The images' `depth` on the smallest grid that holds them all: (B, H, W) float32.

    What lies outside a picture, and an image without the key, is 0: unknown.
    """
    H, W = (max(target["size"][axis] for target in targets) for axis in (0, 1))
    maps = torch.zeros(len(targets), H, W, device=device)
    for own, target in zip(maps, targets, strict=True):
        if "depth" in target:
            h, w = target["depth"].shape
            own[:h, :w] = target["depth"]
    return maps


def l1(prediction: Tensor, truth: Tensor) -> Tensor:
    """The absolute error. prediction, truth: (B, H, W)."""
    with autocast_off(prediction.device):
        known, truth = known_pixels(truth)
        return mean_over_images(mean_of((prediction.float() - truth).abs(), known), known.flatten(1).any(1))


def berhu(prediction: Tensor, truth: Tensor) -> Tensor:
    """The reverse Huber loss (Laina et al. 2016, equation 1): |x| up to c, (x^2 + c^2) / 2c beyond it.

    c is a fifth of the largest error in the image (in the paper, of the batch's). prediction, truth: (B, H, W).
    """
    with autocast_off(prediction.device):
        known, truth = known_pixels(truth)
        error = torch.where(known, (prediction.float() - truth).abs(), 0.0)
        c = (0.2 * error.detach().amax((1, 2), keepdim=True)).clamp(min=_LEAST)
        each = torch.where(error <= c, error, (error**2 + c**2) / (2 * c))
        return mean_over_images(mean_of(each, known), known.flatten(1).any(1))


def silog(prediction: Tensor, truth: Tensor, focus: float = 0.85) -> Tensor:
    """The scale-invariant error of logarithms, 10 sqrt(mean g^2 - focus (mean g)^2), g = log prediction - log truth.

    Eigen et al. 2014 (equation 4) have it without root and factor, and a focus of 0.5; these are of Lee et al. 2019
    (BTS, equation 4), as AdaBins and others train with, there over the pixels of a batch together.
    prediction, truth: (B, H, W).
    """
    with autocast_off(prediction.device):
        known, truth = known_pixels(truth)
        error = torch.where(known, log_error(prediction, truth), 0.0)
        mean = mean_of(error, known)
        variance = mean_of((error - mean[:, None, None]) ** 2, known)
        square = variance + (1 - focus) * mean**2
        some = square > 0  # the root has no gradient at 0
        each = torch.where(some, 10 * torch.where(some, square, 1.0).sqrt(), 0.0)
        return mean_over_images(each, known.flatten(1).any(1))


def log_error(prediction: Tensor, truth: Tensor) -> Tensor:
    """log prediction - log truth, in fp32. truth: from `known_pixels`."""
    return prediction.float().clamp(min=_LEAST).log() - truth.log()


def known_pixels(truth: Tensor) -> tuple[Tensor, Tensor]:
    """Where the truth is above 0 and finite, bool, and the truth in fp32 with 1 elsewhere; both (B, H, W)."""
    truth = truth.float()
    known = (truth > 0) & truth.isfinite()
    return known, torch.where(known, truth, 1.0)


def mean_of(x: Tensor, known: Tensor) -> Tensor:
    """Each image's mean over its known pixels, (B,); 0 where it has none. x, known: (B, H, W)."""
    return torch.where(known, x, 0.0).flatten(1).sum(1) / known.flatten(1).sum(1).clamp(min=1)


def mean_over_images(each: Tensor, counted: Tensor) -> Tensor:
    """The mean of (B,) numbers over the images, of all processes, that are counted; 0 and connected where none is."""
    total = torch.where(counted, each, 0.0).sum()
    return total / mean_over_processes(counted.sum().float()).clamp(min=1e-6)
