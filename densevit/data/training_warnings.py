"""Warnings about a training split: classes without objects, and batches larger than the split."""

import warnings

from densevit.data.loading.repeat_factors import SupportsImageClasses
from densevit.interfaces import Dataset

_LISTED = 8  # names in a message


def warn_of_absent_classes(dataset: Dataset) -> None:
    """Warns of classes that no training image has, if the data set knows them without reading images."""
    pairs = dataset.image_classes() if isinstance(dataset, SupportsImageClasses) else None
    if pairs is None:
        return
    present, classes = {*pairs[:, 1].tolist()}, max(dataset.classes.values(), key=len)
    if absent := [c.name for label, c in enumerate(classes) if label not in present]:
        names = ", ".join(absent[:_LISTED]) + (" ..." if len(absent) > _LISTED else "")
        warnings.warn(
            f"No training image has {len(absent)} of the {len(classes)} classes, which the model cannot learn: {names}."
            " Fix: label objects of these classes, or remove them from the classes of the data.",
            stacklevel=2,
        )


def warn_of_large_batch(dataset: Dataset, batch_size: int) -> None:
    """Warns of a batch with more images than the split."""
    if batch_size > len(dataset):
        warnings.warn(
            f"data.batch_size is {batch_size}, more than the {len(dataset)} training images, which therefore occur "
            f"several times in a batch. Fix: data.batch_size={len(dataset)} or less.",
            stacklevel=2,
        )
