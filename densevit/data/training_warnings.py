"""Warnings about splits: classes without objects, a batch larger than the split, and unknown image sizes."""

import warnings

import numpy as np

from densevit.config import DataSection
from densevit.data.loading.repeat_factors import SupportsImageClasses
from densevit.interfaces import Dataset


def warn_of_split(dataset: Dataset, batch_size: int, labels: bool) -> None:
    """Warns of a batch with more images than the training split, and, with `labels`, of classes that no image has, if
    the data set knows them without reading images."""
    pairs = dataset.image_classes() if labels and isinstance(dataset, SupportsImageClasses) else None
    classes = max(dataset.classes.values(), key=len, default=())
    absent = [c.name for label, c in enumerate(classes) if pairs is not None and label not in pairs[:, 1]]
    if absent:
        warnings.warn(
            f"No training image has {len(absent)} of the {len(classes)} classes, which the model cannot learn: "
            f"{', '.join(absent[:8])}{' ...' if len(absent) > 8 else ''}. Fix: label objects of these classes, or "
            "remove the classes from the data.",
            stacklevel=3,
        )
    if batch_size > len(dataset):
        warnings.warn(
            f"data.batch_size is {batch_size}, more than the {len(dataset)} training images, which therefore occur "
            f"several times in a batch. Fix: data.batch_size={len(dataset)} or less.",
            stacklevel=3,
        )


def warn_of_sizes(sizes: np.ndarray | None, section: DataSection) -> None:
    """Warns if the sizes of evaluated images are unknown: batches then have one image."""
    if section.batch_size > 1 and sizes is None:
        warnings.warn(
            f"{section.name} has no sizes(): images are evaluated one at a time. Fix: give the data set a method "
            "sizes() that returns the images' heights and widths, (N, 2).",
            stacklevel=3,
        )
