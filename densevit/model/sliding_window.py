"""Sliding-window inference: crops windows, runs them in batches, and averages their maps in horizontal strips.

Windows are placed as in mmsegmentation (`slide_inference`): at multiples of the stride, the last one moved back to end
at the border. The averaged maps in memory are never higher than one window.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from densevit.model.map_flips import Flip
from densevit.progress import lines

Size = tuple[int, int]  # height, width


class Maps(Protocol):
    """Runs a model on images (n, C, H, W) with padding_mask (n, H, W).

    Returns float32 maps (n, C, *size) of the top left part of size `size`.
    """

    def __call__(self, images: Tensor, padding_mask: Tensor, size: Size) -> Tensor: ...


class Window(NamedTuple):
    """A window by its top left pixel. mirrored: whether it is flipped horizontally before the model runs."""

    top: int
    left: int
    mirrored: bool


def starts(length: int, window: int, stride: int) -> list[int]:
    """The first pixels of windows along one side. A window longer than the side is cropped to it."""
    last = max(length - window, 0)
    return [min(i * stride, last) for i in range(-(-last // stride) + 1)]


def slide(
    image: Tensor, window: Size, stride: Size, grid: Size, maps: Maps, flip: Flip | None, batch_size: int
) -> Iterator[Tensor]:
    """Yields the averaged maps of an image (C, h, w) as strips (C, rows, w) from top to bottom.

    A strip is valid until the next one is requested. grid: the size that windows are padded to, at the bottom and
    right. flip: averages also the maps of the mirrored image, flipped back by this function; None: off.
    """
    h, w = image.shape[-2:]
    size = (min(window[0], h), min(window[1], w))
    tops, lefts = starts(h, window[0], stride[0]), starts(w, window[1], stride[1])
    y_weights, x_weights = _weights(tops, size[0], h, image.device), _weights(lefts, size[1], w, image.device)
    columns = {False: lefts, True: [w - size[1] - left for left in lefts]} if flip else {False: lefts}
    column_weights = {False: x_weights / len(columns), True: x_weights.flip(0) / len(columns)}
    windows = [Window(top, left, m) for top in tops for m, starts_x in columns.items() for left in starts_x]

    buffer: Tensor | None = None  # (C, size[0], w): the average so far, from row `first` on
    first = 0
    for chunk in window_batches(windows, batch_size):
        batch = maps(*crop_windows(image, chunk, size, grid), size)  # (n, C, *size)
        if buffer is None:
            buffer = batch.new_zeros(batch.shape[1], size[0], w)
        for x, (top, left, mirrored) in zip(batch, chunk, strict=True):
            if top > first:
                done = top - first
                yield buffer[:, :done]
                remaining = buffer[:, done:].clone()
                buffer[:, : size[0] - done] = remaining
                buffer[:, size[0] - done :] = 0
                first = top
            weight = y_weights[top : top + size[0], None] * column_weights[mirrored][left : left + size[1]]
            buffer[:, :, left : left + size[1]].addcmul_(flip(x) if mirrored and flip else x, weight)
    assert buffer is not None  # there is at least one window
    yield buffer


def window_batches(windows: Sequence[Window], batch_size: int) -> Iterator[Sequence[Window]]:
    """Yields batches of windows. A line every half minute shows the progress of a large image."""
    batches = [windows[i : i + batch_size] for i in range(0, len(windows), batch_size)]
    return lines(batches, f"Batches of {batch_size} windows", len(batches))


def crop_windows(image: Tensor, windows: Sequence[Window], size: Size, grid: Size) -> tuple[Tensor, Tensor]:
    """A batch of windows (n, C, *grid) and its padding mask (n, *grid)."""
    images = image.new_zeros(len(windows), image.shape[0], *grid)
    mask = torch.ones(len(windows), *grid, dtype=torch.bool, device=image.device)
    mask[:, : size[0], : size[1]] = False
    for x, (top, left, mirrored) in zip(images, windows, strict=True):
        window = image[:, top : top + size[0], left : left + size[1]]
        x[:, : size[0], : size[1]] = window.flip(-1) if mirrored else window
    return images, mask


def _weights(starts: Sequence[int], window: int, length: int, device: torch.device) -> Tensor:
    """(length,): 1 divided by the number of windows that cover each pixel along one side."""
    counts = torch.zeros(length, dtype=torch.float32, device=device)
    for start in starts:
        counts[start : start + window] += 1
    return 1 / counts
