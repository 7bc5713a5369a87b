"""Sliding windows: a picture is cut, its windows run in batches, and their maps are averaged strip by strip.

The layout is mmsegmentation's (`slide_inference`): windows at multiples of the stride, the last one moved back to end
at the border. At no time is there more than one window's height of averaged maps.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

Size = tuple[int, int]  # height, width


class Maps(Protocol):
    """Runs a model on pictures of one size, (n, 3, H, W) uint8 with padding_mask (n, H, W).

    Returns float32 maps (n, C, *size) of their top left part.
    """

    def __call__(self, images: Tensor, padding_mask: Tensor, size: Size) -> Tensor: ...


class Window(NamedTuple):
    """A part of a picture by its top left pixel, seen as it is or mirrored."""

    top: int
    left: int
    mirrored: bool


def starts(length: int, window: int, stride: int) -> list[int]:
    """Where windows begin along one side; a window that is longer than the side begins at 0 and is cut."""
    beyond = max(length - window, 0)
    return [min(i * stride, beyond) for i in range(-(-beyond // stride) + 1)]


def slide(
    picture: Tensor, window: Size, stride: Size, grid: Size, maps: Maps, flip: bool, batch_size: int
) -> Iterator[Tensor]:
    """The averaged maps of a picture (3, h, w) uint8 as strips (C, rows, w) from the top down.

    A strip is valid until the next is asked for. grid: what a window is padded to at the bottom and right. flip:
    average with the mirrored picture's mirrored maps, of the same layout.
    """
    h, w = picture.shape[-2:]
    size = (min(window[0], h), min(window[1], w))
    tops, lefts = starts(h, window[0], stride[0]), starts(w, window[1], stride[1])
    down, across = _shares(tops, size[0], h, picture.device), _shares(lefts, size[1], w, picture.device)
    columns = {False: lefts, True: [w - size[1] - left for left in lefts]} if flip else {False: lefts}
    shares = {False: across / len(columns), True: across.flip(0) / len(columns)}
    windows = [Window(top, left, m) for top in tops for m, own in columns.items() for left in own]

    held: Tensor | None = None  # (C, size[0], w): the average so far, from row `first` on
    first = 0
    for chunk in (windows[i : i + batch_size] for i in range(0, len(windows), batch_size)):
        found = maps(*_cut(picture, chunk, size, grid), size)  # (n, C, *size)
        if held is None:
            held = found.new_zeros(found.shape[1], size[0], w)
        for own, (top, left, mirrored) in zip(found, chunk, strict=True):
            if top > first:
                done = top - first
                yield held[:, :done]
                kept = held[:, done:].clone()
                held[:, : size[0] - done] = kept
                held[:, size[0] - done :] = 0
                first = top
            share = down[top : top + size[0], None] * shares[mirrored][left : left + size[1]]
            held[:, :, left : left + size[1]].addcmul_(own.flip(-1) if mirrored else own, share)
    assert held is not None  # there is always a window
    yield held


def _cut(picture: Tensor, windows: Sequence[Window], size: Size, grid: Size) -> tuple[Tensor, Tensor]:
    """Windows as a batch: (n, 3, *grid) uint8, and its padding mask."""
    images = picture.new_zeros(len(windows), 3, *grid)
    mask = torch.ones(len(windows), *grid, dtype=torch.bool, device=picture.device)
    mask[:, : size[0], : size[1]] = False
    for image, (top, left, mirrored) in zip(images, windows, strict=True):
        part = picture[:, top : top + size[0], left : left + size[1]]
        image[:, : size[0], : size[1]] = part.flip(-1) if mirrored else part
    return images, mask


def _shares(starts: Sequence[int], window: int, length: int, device: torch.device) -> Tensor:
    """(length,): one over how many windows cover a place, along one side."""
    counts = torch.zeros(length, dtype=torch.float32, device=device)
    for start in starts:
        counts[start : start + window] += 1
    return 1 / counts
