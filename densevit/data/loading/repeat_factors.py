"""Repeat factor sampling of images with rare classes (LVIS, Gupta et al. 2019, appendix B.2)."""

import numpy as np


def repeat_factors(image_classes: np.ndarray, images: int, threshold: float) -> np.ndarray:
    """Mean number of times that an epoch shows each image, (N,) float64, at least 1.

    r(c) = max(1, sqrt(threshold / f(c))) for a class c, where f(c) is the fraction of images with it; an image has the
    largest factor of its classes, and 1 without any.

    image_classes: (P, 2), see `Dataset.image_classes`. images: N.
    """
    pairs = np.unique(image_classes.reshape(-1, 2), axis=0)  # a class counts once in an image
    _, classes = np.unique(pairs[:, 1], return_inverse=True)
    frequency = np.bincount(classes) / images  # (K,)
    factors = np.ones(images)
    np.maximum.at(factors, pairs[:, 0], np.sqrt(threshold / frequency)[classes])
    return factors


class RepeatedIndices:
    """Indices of an epoch in which each image occurs as often as its factor says.

    An image with the factor 1.3 occurs once or twice, 1.3 times on average over the epochs: the fractional parts are
    rounded stochastically, in each epoch anew. Rounding is systematic, by one random offset to the cumulative sum of
    the fractions in random order: all epochs have the same length, the rounded sum of the factors. With independent
    draws per image, as in detectron2, their lengths differ.

    factors: (N,), at least 1. Epochs depend on nothing but them, the seed and the epoch's number.
    """

    def __init__(self, factors: np.ndarray, seed: int) -> None:
        self.factors, self.seed = factors, seed

    def __call__(self, epoch: int) -> np.ndarray:
        """(M,) int64, grouped by image."""
        rng = np.random.default_rng([self.seed, epoch, _STREAM])
        order = rng.permutation(len(self.factors))
        whole = np.floor(self.factors[order])
        sums = np.cumsum(self.factors[order] - whole)
        total = round(sums[-1])
        sums = sums * (total / sums[-1]) if total else np.zeros_like(sums)
        sums[-1] = total  # without rounding errors
        extra = np.diff(np.floor(sums + rng.random()), prepend=0)
        return np.repeat(order, (whole + extra).astype(np.int64))


_STREAM = 1  # apart from the generator that shuffles the epoch
