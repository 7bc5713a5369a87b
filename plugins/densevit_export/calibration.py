"""Images on which the quantisation of a model is calibrated."""

from collections.abc import Iterator

import numpy as np
from torch import Tensor

from densevit.data.data_splits import DataSplits
from densevit.errors import DataError
from densevit.interfaces import Dataset

CALIBRATION_IMAGES = 128


def calibration_images(data: DataSplits) -> Iterator[Tensor]:
    """Yields up to `CALIBRATION_IMAGES` evenly spaced training images (3, H, W) uint8, without augmentation.

    Takes the evaluated split if the training split cannot be read or is empty. Raises DataError without any image.
    """
    dataset = _dataset(data)
    if not len(dataset):
        raise DataError(
            f"data {data.section.name!r}: int8 needs calibration images, and there are none. Fix: data.root=FOLDER."
        )
    indices = np.linspace(0, len(dataset) - 1, min(CALIBRATION_IMAGES, len(dataset))).round().astype(int)
    return (dataset[index]["image"] for index in indices.tolist())


def _dataset(data: DataSplits) -> Dataset:
    try:
        return data.train if len(data.train) else data.val
    except DataError:
        return data.val
