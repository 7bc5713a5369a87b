"""Test-time augmentation: averages dense predictions over windows, flips and scales, in the image's original pixels.

Maps are resized and decoded in strips. With windows, the memory for maps of C channels is about
`8 * C * window_height * W * sum(scales)` bytes plus one batch of windows, whatever the height of the image.
"""

import math
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor
from torch.nn import functional as F

from densevit.channels import FULL_RANGES
from densevit.config import InferenceSection
from densevit.interfaces import Batch, DenseHead, Predictions
from densevit.layers.missing_pixels import resampled
from densevit.layers.padding import padded
from densevit.layers.precision import in_float32
from densevit.model.head_inference import SupportsHeads
from densevit.model.map_flips import Flip, flip_of
from densevit.model.sliding_window import Size, slide
from densevit.model.streaming_resize import averaged, resized
from densevit.model.zoom import without_zoom


class MultiHeadModel(SupportsHeads, Protocol):
    """The part of `DenseModel` that test-time augmentation uses."""

    @property
    def size_divisor(self) -> int: ...

    def __call__(self, batch: Batch, heads: Sequence[str]) -> Any: ...


@runtime_checkable
class SupportsUndoZoom(Protocol):
    """A `DenseHead` whose maps depend on the image's zoom in a special way, such as log depth."""

    def undo_zoom(self, maps: Tensor, zoom: float) -> Tensor:
        """Converts `maps` (B, C, h, w) of an image that was enlarged by `zoom` to zoom 1.

        Called before maps of several scales are averaged (`inference.scales`).
        """


def undo_zoom(head: DenseHead, maps: Tensor, zoom: float) -> Tensor:
    """The maps at zoom 1 (`SupportsUndoZoom`). By default, as the target type of the prediction that the head reads
    from them (`TargetType.under_zoom`)."""
    if isinstance(head, SupportsUndoZoom):
        return head.undo_zoom(maps, zoom)
    values = without_zoom(dict.fromkeys(head.read_maps(maps[:1, :, :1, :1]), maps), head.target_types, zoom)
    return next((x for x in values.values() if x is not maps), maps)


def predictions(
    model: MultiHeadModel, batch: Batch, options: InferenceSection, heads: Sequence[str]
) -> dict[str, list[Predictions]]:
    """The predictions of `heads`, one per image, in original pixels, averaged over windows, flips and scales."""
    results = []
    grid = (batch["images"].shape[2], batch["images"].shape[3])
    for image, target in zip(batch["images"], batch["targets"], strict=True):
        h, w = map(int, target["size"])
        H, W = map(int, target["original_size"])
        maps = ConcatenatedMaps(model, heads, options)
        views = [_view_maps(maps, image[:, :h, :w], scale, grid, options) for scale in options.scales]
        strips = resized(averaged(views, h, lockstep=options.window is not None), (h, w), (H, W))
        results.append(_decode(maps, strips, H))
    return {name: [by_head[name] for by_head in results] for name in heads}


class ConcatenatedMaps:
    """Runs the model and returns the maps of some heads, concatenated along the channels.

    channels: the number of channels of each head, set by the first call. zoom: the scale of the images, the square root
    of the ratio of areas; each head undoes its effect on the maps.
    """

    def __init__(self, model: MultiHeadModel, heads: Sequence[str], options: InferenceSection) -> None:
        self.model, self.probabilities = model, options.average == "probabilities"
        self.heads = {name: head for name, head in model.heads.items() if name in heads and isinstance(head, DenseHead)}
        self.channels: list[int] = []
        self._flips: list[Flip] | None = None if options.flip else []  # one per head, set by the first call

    def __call__(self, images: Tensor, padding_mask: Tensor, size: Size, zoom: float = 1.0) -> Tensor:
        targets = [{"size": size, "original_size": size}] * len(images)
        batch: Batch = {"images": images, "padding_mask": padding_mask, "targets": targets}
        outputs = self.model(batch, [*self.heads])
        maps = []
        for name, head in self.heads.items():
            x = head.maps(in_float32(outputs[name]), size).float()  # (n, C, *size)
            if zoom != 1:
                x = undo_zoom(head, x, zoom)
            if self.probabilities and x.shape[1] == len(head.classes) > 1:
                x = x.softmax(1)
            maps.append(x)
        self.channels = [x.shape[1] for x in maps]
        if self._flips is None:
            self._flips = [flip_of(name, head, x) for (name, head), x in zip(self.heads.items(), maps, strict=True)]
        return maps[0] if len(maps) == 1 else torch.cat(maps, dim=1)

    def flip(self, maps: Tensor) -> Tensor:
        """The maps (C, h, w) of the horizontally flipped image."""
        assert self._flips is not None
        if len(self._flips) == 1:
            return self._flips[0](maps)
        return torch.cat([flip(x) for flip, x in zip(self._flips, maps.split(self.channels), strict=True)])


def _view_maps(
    maps: ConcatenatedMaps, image: Tensor, scale: float, grid: Size, options: InferenceSection
) -> Iterator[Tensor]:
    """Yields strips (C, rows, w) of an image's maps (3, h, w) at one scale, resized to the image's grid.

    grid: the padded size of the batch, for the full image at scale 1. Other scales and windows are padded to their next
    multiple, or to the backbone's `input_size` if it has one.
    """
    size = (image.shape[1], image.shape[2])
    scaled = _scaled(image, (max(1, round(scale * size[0])), max(1, round(scale * size[1]))))
    scaled_size = (scaled.shape[1], scaled.shape[2])
    window, stride = options.window_sides or scaled_size, options.strides or scaled_size
    if options.window is not None or scaled_size != size:
        grid = window_grid(maps.model, window, scaled_size)
    zoom = math.sqrt(math.prod(scaled_size) / math.prod(size))  # from the rounded sides, as in training
    flip = maps.flip if options.flip else None
    strips = slide(scaled, window, stride, grid, partial(maps, zoom=zoom), flip, options.batch_size)
    return resized(strips, scaled_size, size)


def window_grid(model: MultiHeadModel, window: Size, size: Size) -> Size:
    """The size that windows of an image are padded to."""
    crop = (min(window[0], size[0]), min(window[1], size[1]))
    return model.backbone.input_size or padded(crop, model.size_divisor)


def _scaled(image: Tensor, size: Size) -> Tensor:
    """Resizes an image (C, h, w), bilinear with antialiasing, one channel at a time to save memory."""
    if tuple(image.shape[1:]) == size:
        return image
    scaled = image.new_empty(len(image), *size)
    for plane, out in zip(image, scaled, strict=True):
        x = resampled(plane[None, None], lambda x: F.interpolate(x.float(), size, mode="bilinear", antialias=True))
        if not image.is_floating_point():
            x = x.round_().clamp_(*FULL_RANGES[str(image.dtype).removeprefix("torch.")])
        out.copy_(x[0, 0])
    return scaled


def _decode(maps: ConcatenatedMaps, strips: Iterator[Tensor], height: int) -> dict[str, Predictions]:
    """Decodes strips of concatenated maps into each head's predictions of an image.

    height: the height of all strips together, in pixels.
    """
    results: dict[str, Predictions] = {name: {} for name in maps.heads}
    top = 0
    for strip in strips:
        bottom = top + strip.shape[1]
        for (name, head), x in zip(maps.heads.items(), strip.split(maps.channels), strict=True):
            for key, part in head.read_maps(x[None]).items():  # (1, rows, W), or (1, C, rows, W)
                if top == 0:
                    results[name][key] = part.new_empty(*part.shape[1:-2], height, part.shape[-1])
                results[name][key][..., top:bottom, :] = part[0]
        top = bottom
    return results
