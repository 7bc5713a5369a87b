"""Predictions of several heads with windows, flips and scales; heads with equal options share their passes."""

from collections.abc import Mapping

from densevit.config import InferenceSection
from densevit.interfaces import Batch, DenseHead, Predictions
from densevit.model import test_time_augmentation, tiled_detection
from densevit.model.test_time_augmentation import MultiHeadModel


def augmented_predictions(
    model: MultiHeadModel, batch: Batch, inference: Mapping[str, InferenceSection]
) -> dict[str, list[Predictions]]:
    """The predictions of the heads in `inference`, one per image, in original pixels. inference: options by head."""
    results: dict[str, list[Predictions]] = {}
    is_dense = {name: isinstance(model.heads[name], DenseHead) for name in inference}
    while left := {name: options for name, options in inference.items() if name not in results}:
        first, options = next(iter(left.items()))
        names = [name for name, other in left.items() if (other, is_dense[name]) == (options, is_dense[first])]
        windowed = test_time_augmentation if is_dense[first] else tiled_detection
        results |= windowed.predictions(model, batch, options, names)
    return results
