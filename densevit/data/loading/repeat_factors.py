"""Repeat factor sampling of images with rare classes (LVIS, Gupta et al. 2019, appendix B.2)."""

from typing import Protocol, runtime_checkable

import numpy as np


@runtime_checkable
class SupportsImageClasses(Protocol):
    """A data set that can be used with `data.repeat_factor`."""

    def image_classes(self) -> np.ndarray | None:
        """Returns pairs (P, 2) of an image index and a class index in it, in any order, possibly repeated; None if
        classes are unknown without reading images. An image without objects has no pair."""


def repeat_factors(image_classes: np.ndarray, images: int, threshold: float) -> np.ndarray:
    """Returns the mean number of occurrences of each image in an epoch, (N,) float64, at least 1.

    r(c) = max(1, sqrt(threshold / f(c))) for a class c, where f(c) is the fraction of images with it; an image has the
    largest factor of its classes, and 1 without any.

    image_classes: (P, 2) (`SupportsImageClasses`); -1 is no class. images: N.
    """
    pairs = np.unique(image_classes.reshape(-1, 2), axis=0)  # a class counts once in an image
    pairs = pairs[pairs[:, 1] >= 0]
    _, classes = np.unique(pairs[:, 1], return_inverse=True)
    frequency = np.bincount(classes) / images  # (K,)
    factors = np.ones(images)
    np.maximum.at(factors, pairs[:, 0], np.sqrt(threshold / frequency)[classes])
    return factors


class RepeatedIndices:
    """Indices of an epoch in which each image occurs as often as its factor, on average.

    An image with the factor 1.3 occurs once or twice, 1.3 times on average over the epochs: each epoch rounds the
    fractional parts stochastically. Rounding is systematic (one random offset to the cumulative sum of the fractions in
    random order), so all epochs have the same length, the rounded sum of the factors. With independent draws per image,
    as in detectron2, the lengths differ. The fractions are scaled to an integer sum; this changes the averages by less
    than 1 image in the sum over all images.

    factors: (N,), at least 1. An epoch depends only on the factors, the seed and its number.
    """

    def __init__(self, factors: np.ndarray, seed: int) -> None:
        self.factors, self.seed = factors, seed

    def __call__(self, epoch: int) -> np.ndarray:
        """Returns the indices of an epoch, (M,) int64, grouped by image."""
        rng = np.random.default_rng([self.seed, epoch, _STREAM])
        order = rng.permutation(len(self.factors))
        integer_parts = np.floor(self.factors[order])
        sums = np.cumsum(self.factors[order] - integer_parts)
        total = round(sums[-1])
        sums = sums * (total / max(sums[-1], 1e-9))
        sums[-1] = total  # without rounding errors
        extra = np.diff(np.floor(sums + rng.random()), prepend=0)
        return np.repeat(order, (integer_parts + extra).astype(np.int64))


_STREAM = 1  # random stream; differs from the one that shuffles the epoch
