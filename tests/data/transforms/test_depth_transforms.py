"""Sparse depth through resizing, flips, crops and zooms: no value is interpolated, and each stays at its place."""

from typing import Any

import numpy as np
import pytest
import torch

from densevit.config import DataSection
from densevit.data.transforms.augmentation import Augmentation
from densevit.data.transforms.fixed import Fixed
from densevit.data.transforms.resizing import EvaluationTransform, create_transforms
from densevit.interfaces import Frame, Sample, Transforms
from densevit.losses.context import LossContext
from densevit_heads.dpt import DptDepth
from densevit_heads.dpt.depth import DepthLossWeights

HEIGHT, WIDTH = 120, 200


def lidar() -> tuple[Sample, dict[float, tuple[int, int]]]:
    """An image whose red and green are column and row, with distinct depths at 5 % of its pixels.

    Also returns the (row, column) of each depth.
    """
    rng = np.random.default_rng(0)
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    image = np.stack([columns, rows * 2, np.zeros_like(rows)]).astype(np.uint8)
    depth = np.zeros((HEIGHT, WIDTH), np.float32)
    chosen = rng.permutation(HEIGHT * WIDTH)[: HEIGHT * WIDTH // 20]
    depth.flat[chosen] = np.arange(len(chosen), dtype=np.float32) + 1000
    places = {float(depth.flat[i]): (int(i // WIDTH), int(i % WIDTH)) for i in chosen}
    targets = {"image_id": "a", "depth": torch.from_numpy(depth)}
    return {"image": torch.from_numpy(image), "targets": targets}, places


def assert_on_its_place(sample: Sample, places: dict[float, tuple[int, int]], zoom: float = 1.0) -> None:
    """Each depth, times the zoom, is an original value, and the image there shows its row and column."""
    depth, image = sample["targets"]["depth"], sample["image"].numpy().astype(int)
    assert depth.shape == sample["targets"]["size"] and depth.dtype == torch.float32
    found = depth.nonzero().tolist()
    assert 0.03 < len(found) / depth.numel() < 0.07, "equally sparse: nothing is filled in, and little lost"
    for row, column in found:
        value = float(depth[row, column]) * zoom
        y, x = places[round(value)]
        assert value == pytest.approx(round(value), abs=0.01)
        assert abs(image[0, row, column] - x) <= 2 and abs(image[1, row, column] / 2 - y) <= 2


@pytest.mark.parametrize("image_size", [None, 100, 333, (90, 300), (240, 120)])
def test_evaluation_resizing_creates_no_new_depth(image_size: Any) -> None:
    sample, places = lidar()
    assert_on_its_place(EvaluationTransform(Fixed(image_size))(sample), places)


class OneFrame(Transforms):
    """Transforms that always return the same frame. EvaluationTransform does not change images."""

    def __init__(self, frame: Frame) -> None:
        self.frame = frame

    def evaluation_size(self, height: int, width: int) -> tuple[int, int]:
        return height, width

    def training_frame(self, *given: Any) -> Frame:
        return self.frame


@pytest.mark.parametrize(
    ("frame", "zoom"),
    [
        (Frame((0, 0, HEIGHT, WIDTH), (HEIGHT, WIDTH)), 1),
        (Frame((10, 30, 110, 130), (100, 100)), 1),
        (Frame((10, 20, 70, 120), (120, 200)), 2),
        (Frame((0, 0, 120, 200), (60, 100)), 0.5),
        (Frame((7, 11, 91, 116), (105, 140)), np.sqrt(105 / 84 * 140 / 105)),
    ],
)
def test_augmented_depth_stays_aligned_with_the_image(frame: Frame, zoom: float) -> None:
    """In an image enlarged twice, objects appear twice as near, and their depth is halved."""
    sample, places = lidar()
    transform, flips = Augmentation(OneFrame(frame)), set()
    for seed in range(6):
        taken = transform(sample, np.random.default_rng(seed))
        assert taken["targets"]["size"] == frame.size
        flips.add(bool(taken["image"][0, 0, 0] > taken["image"][0, 0, -1]))
        assert_on_its_place(taken, places, zoom)
    assert flips == {True, False}


@pytest.mark.parametrize(
    ("name", "image_size"),
    [
        ("fixed", 160),
        ("detr", (100, 170)),
        ("crop", (96, 96)),
    ],
)
def test_depth_is_sampled_at_pixel_centres(name: str, image_size: Any) -> None:
    """Against nearest-pixel sampling written out, with depth divided by the frame's zoom against evaluation.

    A shift by one pixel would still agree at 90 % of such a sparse map.
    """
    transforms: Any = create_transforms(DataSection(name="depth", transforms=name, image_size=image_size))
    sample, _ = lidar()
    whole = sample["targets"]["depth"].numpy()
    usual = np.sqrt(np.prod(transforms.evaluation_size(HEIGHT, WIDTH)) / whole.size)
    recorded = OneFrame(Frame((0, 0, 1, 1), (1, 1)))
    recorded.evaluation_size = transforms.evaluation_size  # type: ignore[method-assign]
    transform = Augmentation(recorded)  # type: ignore[arg-type]
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


@pytest.mark.parametrize(("zoom", "wanted"), [(0.5, [0, 2, 16, 0]), (2.0, [0, 0.5, 4, 5])])
def test_depth_beyond_the_head_s_range_after_zoom_is_unknown(zoom: float, wanted: list[float]) -> None:
    """Of 0, 1, 8 and 10 m: at half the size, 10 m become 20, beyond a head of 0.4 to 18 m, and are not clamped."""
    depth = torch.tensor([0.0, 1, 8, 10]).repeat_interleave(16).repeat(64, 1)
    sample: Sample = {"image": torch.zeros(3, 64, 64, dtype=torch.uint8), "targets": {"image_id": 1, "depth": depth}}
    side = round(64 * zoom)
    taken = Augmentation(OneFrame(Frame((0, 0, 64, 64), (side, side))))(sample, np.random.default_rng(0))
    found = taken["targets"]["depth"]
    assert set(found.unique().tolist()) == {0, 1 / zoom, 8 / zoom, 10 / zoom}
    head = DptDepth(
        (8,), (8,), width=8, output="sigmoid", min_depth=0.4, max_depth=18.0, loss_weights=DepthLossWeights(0.0, 1.0)
    )
    prediction = torch.full((1, 1, side, side), 3.0, requires_grad=True)
    head.stride = 1
    head.loss({"depth": prediction}, [taken["targets"]], LossContext())["l1"].backward()
    assert prediction.grad is not None
    has_gradient = prediction.grad[0, 0] != 0
    assert set(found[has_gradient].unique().tolist()) == {value for value in wanted if value}
    assert not has_gradient[found == 0].any()


def test_padding_has_no_depth() -> None:
    """The canvas is wider than the image; targets leave that out."""
    sample, _ = lidar()
    transform = Augmentation(Fixed((300, 300)))
    for seed in range(5):
        taken = transform(sample, np.random.default_rng(seed))
        assert taken["image"].shape == (3, 300, 300)
        assert taken["targets"]["depth"].shape == taken["targets"]["size"] != (300, 300)
