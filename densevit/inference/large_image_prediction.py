"""Predicts maps of images that do not fit into memory, by rows of windows."""

import math
from collections.abc import Iterator

import torch

from densevit.data.io import large_tiff
from densevit.data.io.large_tiff import LargeTiff
from densevit.data.io.map_files import TILE
from densevit.drawing.draw import MAX_SIDE
from densevit.errors import UnreadableFileError
from densevit.inference.image_file import ImageFile
from densevit.inference.image_writers import OutputFolder
from densevit.inference.iterating import Predicted, evaluation_mode
from densevit.inference.predictor import Predictor
from densevit.inference.result import Result
from densevit.interfaces import DenseHead, Predictions
from densevit.model.sliding_window import ImageRows
from densevit.model.test_time_augmentation import prediction_strips


class LargePredicted(Predicted):
    """An image whose maps are already written. pixels, result: every n-th pixel; size: the original."""


def streams_maps(predictor: Predictor) -> bool:
    """Whether `predict_strips` supports all heads: map heads with windows and without scales. An exported file, which
    has no architecture, takes no windows."""
    return predictor.model.sections is not None and all(
        isinstance(head, DenseHead) and predictor.inference[name].window and predictor.inference[name].scales == (1.0,)
        for name, head in predictor.heads.items()
    )


def is_large(image: ImageFile, predictor: Predictor) -> bool:
    """Whether an image must be read and predicted by rows of windows."""
    if not image.location.lower().endswith(large_tiff.SUFFIXES) or image.url or image.member:
        return False
    try:
        with LargeTiff(image.path, predictor.channels, predictor.device) as opened:
            return math.prod(opened.shape[1:]) >= large_tiff.LARGE
    except UnreadableFileError:
        return False  # reading the full image may work, or reports the error


def predict_large(image: ImageFile, output: OutputFolder) -> Predicted:
    """Predicts an image and writes its maps, one head after the other. Returns every n-th pixel of image and maps, at
    most MAX_SIDE on a side; or the error."""
    predictor = output.predictor
    try:
        with LargeTiff(image.path, predictor.channels, predictor.device) as opened:
            _, height, width = opened.shape
            step = -(-max(height, width) // MAX_SIDE)
            decimated: dict[str, Predictions] = {}
            for head in predictor.heads:
                strips = predict_strips(predictor, opened, head, TILE)
                decimated[head] = output.maps.add_strips(head, image.name, strips, (height, width), step)
            pixels = opened.decimated(step)
    except UnreadableFileError as error:
        return Predicted(image, error=error)
    by_head = predictor.classes, output.thresholds, predictor.target_types
    return LargePredicted(image, pixels, Result(pixels, (height, width), decimated, *by_head))


@torch.inference_mode()
def predict_strips(predictor: Predictor, image: ImageRows, head: str, rows: int) -> Iterator[Predictions]:
    """Yields the predictions of a head on an image at its original size as strips (..., rows, W) from top to bottom, on
    the CPU; the last strip may have fewer rows. Image and map are never completely in memory.

    image: (C, H, W), on the predictor's device. head: a name; see `streams_maps`.
    """
    buffer: Predictions = {}
    with evaluation_mode(predictor.model):
        for strip in prediction_strips(predictor.model, image, predictor.inference[head], head, predictor.references):
            new = {key: value.cpu() for key, value in strip.items()}
            buffer = {key: torch.cat([buffer.get(key, x[..., :0, :]), x], dim=-2) for key, x in new.items()}
            while min(x.shape[-2] for x in buffer.values()) >= rows:
                yield {key: x[..., :rows, :] for key, x in buffer.items()}
                buffer = {key: x[..., rows:, :] for key, x in buffer.items()}
    if min(x.shape[-2] for x in buffer.values()):
        yield buffer
