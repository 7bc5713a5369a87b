"""Subsets of the training images for label efficiency: the score of a probe that is fitted to a share of the labels."""

from collections.abc import Sequence

import numpy as np

from densevit.errors import ConfigError


def check_labels(percents: Sequence[float], fitted: Sequence[str]) -> None:
    """Raises ConfigError for per cent out of 0 to 100, and without a fitted probe."""
    if not all(0 < percent <= 100 for percent in percents) or not fitted:
        raise ConfigError(
            f"labels is {', '.join(f'{percent:g}' for percent in percents)}, of {len(fitted)} probes that are fitted; "
            "per cent above 0 and at most 100, of at least one probe, are expected. Fix: labels=1,10,100."
        )


def label_subset(count: int, share: float, image_classes: Sequence[int] | None = None, seed: int = 0) -> list[int]:
    """The indices of a share of `count` training images, ascending, at least one image.

    The subsets of a seed are nested: a smaller share is part of a larger one. With classes, they are stratified by
    systematic sampling: the n images of a class, in random order, have the places (u + i) / n for i = 0 ... n - 1, with
    a random u in [0, 1) per class; a subset has the images with the smallest places of all classes.

    share: above 0, at most 1, such as 0.01. image_classes: the class of each image, where images have classes; None:
    all images are alike.
    """
    if count < 1 or not 0 < share <= 1:
        raise ConfigError(
            f"the share is {share:g} of {count} training images; above 0 and at most 1, of at least 1, are expected."
        )
    rng = np.random.default_rng(seed)
    classes = np.zeros(count, int) if image_classes is None else np.asarray(image_classes)
    places = np.empty(count)
    for image_class in np.unique(classes):
        members = rng.permutation(np.flatnonzero(classes == image_class))
        places[members] = (rng.random() + np.arange(len(members))) / len(members)
    first = np.argsort(places, kind="stable")[: max(1, round(share * count))]
    return sorted(first.tolist())
