"""Predicts maps of images that do not fit into memory, by rows of windows."""

import math
from collections.abc import Iterator
from typing import Any, cast

import torch
from torch import Tensor

from densevit.data.datasets.depth_maps import file_types
from densevit.drawing.draw import MAX_SIDE
from densevit.errors import UnreadableFileError, WeightsError
from densevit.inference.iterating import Predicted
from densevit.inference.result import Result
from densevit.interfaces import DenseHead, Predictions
from densevit.layers.unchanged import evaluation_mode
from densevit.model import DenseModel, InferenceModel, NanCheck
from densevit.model.sliding_window import slide
from densevit.model.streaming_resize import resized
from densevit.model.test_time_augmentation import ConcatenatedMaps, window_grid
from densevit.model.zoom import without_zoom, zoom_of
from densevit_batch import large_tiff
from densevit_batch.image_file import ImageFile
from densevit_batch.image_writers import OutputFolder
from densevit_batch.large_tiff import LargeTiff
from densevit_batch.map_strips import TILE, write_strips


class LargePredicted(Predicted):
    """An image whose maps are already written. pixels, result: every n-th pixel; size: the original."""


def streams_maps(model: InferenceModel) -> bool:
    """Whether `predict_strips` supports all heads: map heads with windows and without scales and canonical camera. An
    exported file takes no windows."""
    return (
        isinstance(model, DenseModel)
        and not model.canonical_focals
        and all(
            isinstance(head, DenseHead) and model.inference[name].window and model.inference[name].scales == (1.0,)
            for name, head in model.heads.items()
        )
    )


def is_large(image: ImageFile, model: InferenceModel) -> bool:
    """Whether an image must be read and predicted by rows of windows."""
    if not image.location.lower().endswith(large_tiff.SUFFIXES) or image.url or image.member:
        return False
    try:
        with LargeTiff(image.path, model.channels, model.device) as opened:
            return math.prod(opened.shape[1:]) >= large_tiff.LARGE
    except UnreadableFileError:
        return False  # reading the full image may work, or reports the error


def predict_large(image: ImageFile, output: OutputFolder) -> Predicted:
    """Predicts an image and writes its maps, one head after the other. Returns every n-th pixel of image and maps, at
    most MAX_SIDE on a side; or the error."""
    model = output.model
    assert isinstance(model, DenseModel)
    try:
        with LargeTiff(image.path, model.channels, model.device) as opened:
            _, height, width = opened.shape
            step = -(-max(height, width) // MAX_SIDE)
            decimated: dict[str, Predictions] = {}
            rows = cast(Tensor, opened)  # windows slice it, and ask for its shape, its device and `new_zeros`
            for head in model.heads:
                strips = predict_strips(model, rows, head, TILE)
                decimated[head] = write_strips(output.maps, head, image.name, strips, (height, width), step)
            pixels = opened.decimated(step)
    except UnreadableFileError as error:
        return Predicted(image, error=error)
    except WeightsError as error:
        raise WeightsError(f"{image.file_name}: {error}") from None
    by_head = model.classes, output.thresholds, file_types(model)
    return LargePredicted(image, pixels, Result(pixels, (height, width), decimated, *by_head))


@torch.inference_mode()
def predict_strips(model: DenseModel, image: Tensor, head: str, rows: int) -> Iterator[Predictions]:
    """Yields the predictions of a head on an image at its original size as strips (..., rows, W) from top to bottom, on
    the CPU, averaged over windows and flips; the last strip may have fewer rows. Image and map are never completely in
    memory.

    image: (C, H, W), on the model's device; its rows are read from top to bottom, one window's at a time. head: a name;
    see `streams_maps`.
    """
    options, size = model.inference[head], (image.shape[1], image.shape[2])
    check: Any = NanCheck(model)
    maps, window, stride = ConcatenatedMaps(check, [head], options), options.window_sides, options.strides
    assert window is not None and stride is not None
    layer = maps.heads[head]
    zoom = zoom_of(size, size, model.references[head]) if head in model.references else 1.0
    flip, grid = maps.flip if options.flip else None, window_grid(model, window, size)
    buffer: Predictions = {}
    with evaluation_mode(model):
        for strip in resized(slide(image, window, stride, grid, maps, flip, options.batch_size), size, size):
            values = {key: part[0] for key, part in layer.read_maps(strip[None]).items()}
            new = {key: value.cpu() for key, value in without_zoom(values, layer.target_types, zoom).items()}
            check.read()
            buffer = {key: torch.cat([buffer.get(key, x[..., :0, :]), x], dim=-2) for key, x in new.items()}
            while min(x.shape[-2] for x in buffer.values()) >= rows:
                yield {key: x[..., :rows, :] for key, x in buffer.items()}
                buffer = {key: x[..., rows:, :] for key, x in buffer.items()}
    if min(x.shape[-2] for x in buffer.values()):
        yield buffer
