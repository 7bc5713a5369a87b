"""Sparse depth through resizing, flips, crops and zooms: no value is interpolated, and each stays at its place."""

from typing import Any

import numpy as np
import pytest
import torch

from densevit.config import DataSection
from densevit.data.transforms.augmentation import Augmentation
from densevit.data.transforms.resizing import EvaluationTransform, create_transforms
from densevit.interfaces import Frame, Sample, Transforms

HEIGHT, WIDTH = 120, 200


def sparse() -> Sample:
    """An image with distinct depths at 5 % of its pixels."""
    depth, count = np.zeros((HEIGHT, WIDTH), np.float32), HEIGHT * WIDTH // 20
    depth.flat[np.random.default_rng(0).permutation(HEIGHT * WIDTH)[:count]] = np.arange(count) + 1000
    image = torch.zeros(3, HEIGHT, WIDTH, dtype=torch.uint8)
    return {"image": image, "targets": {"image_id": "a", "depth": torch.from_numpy(depth)}}


class OneFrame(Transforms):
    """Transforms that always return the same frame. EvaluationTransform does not change images."""

    def __init__(self, frame: Frame) -> None:
        self.frame = frame

    def evaluation_size(self, height: int, width: int) -> tuple[int, int]:
        return height, width

    def training_frame(self, *given: Any) -> Frame:
        return self.frame


@pytest.mark.parametrize(
    ("name", "image_size"),
    [
        ("fixed", 160),
        ("detr", (100, 170)),
        ("crop", (96, 96)),
    ],
)
def test_depth_is_sampled_at_pixel_centres(name, image_size):
    """Against nearest-pixel sampling written out, with depth divided by the frame's zoom against evaluation.

    A shift by one pixel would still agree at 90 % of such a sparse map.
    """
    transforms: Any = create_transforms(DataSection(name="depth", transforms=name, image_size=image_size))
    sample = sparse()
    whole = sample["targets"]["depth"].numpy()
    evaluated = EvaluationTransform(transforms)(sample)["targets"]["depth"].numpy()
    assert np.isin(evaluated, whole).all() and 0.03 < (evaluated > 0).mean() < 0.07, "equally sparse"
    usual = np.sqrt(np.prod(transforms.evaluation_size(HEIGHT, WIDTH)) / whole.size)
    recorded = OneFrame(Frame((0, 0, 1, 1), (1, 1)))
    recorded.evaluation_size = transforms.evaluation_size
    transform = Augmentation(recorded)
    for seed in range(20):
        recorded.frame = transforms.training_frame(HEIGHT, WIDTH, np.random.default_rng(seed))
        (top, left, bottom, right), (h, w) = recorded.frame
        rows = top + np.floor((np.arange(h) + 0.5) * (bottom - top) / h).astype(int)
        columns = left + np.floor((np.arange(w) + 0.5) * (right - left) / w).astype(int)
        zoom = np.sqrt(h * w / ((bottom - top) * (right - left))) / usual
        either = [(one[np.ix_(rows, columns)] / zoom) for one in (whole, whole[:, ::-1])]
        found = transform(sample, np.random.default_rng(seed))["targets"]["depth"].numpy()
        agreeing = max(np.isclose(found, one, rtol=1e-5).mean() for one in either)
        assert agreeing > 0.99, "OpenCV counts in 1/65536 pixels: a centre on a pixel's edge may fall to either side"
        assert np.isin((found * zoom).round(), whole).all()
