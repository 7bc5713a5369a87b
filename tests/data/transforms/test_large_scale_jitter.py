"""The transforms `lsj`: the geometry of detectron2's ResizeScale and FixedSizeCrop."""

import itertools
from typing import Any

import numpy as np

from densevit.data.transforms.large_scale_jitter import LargeScaleJitter


class Drawn:
    """A generator that gives the two numbers of a frame: the factor and the crop's share."""

    def __init__(self, factor: float, share: float) -> None:
        self.factor, self.share = factor, share

    def uniform(self, low: float, high: float) -> float:
        assert low <= self.factor <= high
        return self.factor

    def random(self) -> float:
        return self.share


def by_detectron2(size: tuple[int, int], target: tuple[int, int], factor: float, share: float) -> Any:
    """ResizeScale._get_resize and FixedSizeCrop._get_crop: the resized size, and offset and size of the crop."""
    output_scale = np.minimum(target[0] * factor / size[0], target[1] * factor / size[1])
    resized = np.round(np.multiply(size, output_scale)).astype(int)
    offset = np.round(np.maximum(resized - target, 0) * share).astype(int)
    return resized, offset, np.minimum(resized - offset, target)


def test_frames_equal_detectron2():
    target = (640, 800)
    for size, *case in itertools.product(
        [(480, 640), (1200, 300), (512, 512), (7, 900)], [0.1, 0.63, 1.0, 1.37, 2.0], [0.0, 0.3, 0.999]
    ):  # factor, share
        frame = LargeScaleJitter(target).training_crop(*size, Drawn(*case))
        resized, offset, cropped = by_detectron2(size, target, *case)
        assert frame.size == tuple(np.maximum(cropped, 1)), case
        top, left, bottom, right = frame.window
        assert 0 <= top < bottom <= size[0] and 0 <= left < right <= size[1], case
        # On the original image the crop is between pixels: at most half a pixel away.
        pixels = np.array(size) / np.maximum(resized, 1)
        exact = [*(offset * pixels), *((offset + cropped) * pixels)]
        if min(exact[2] - exact[0], exact[3] - exact[1]) >= 1:
            assert np.abs(np.array(frame.window) - exact).max() <= 0.5 + 1e-9, case
        if (resized <= target).all():
            assert frame.window == (0, 0, *size), case
