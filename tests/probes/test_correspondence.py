"""Correspondence of views: features that are positions, and the ratio test by hand."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from densevit.interfaces import Batch
from densevit_probes.correspondence import MatchRecall, ViewCorrespondence, nearest, sampled
from tests.data.transforms import test_missing_pixels
from tests.data.transforms.test_missing_pixels import SIZE, bilinear_weights

HEIGHT, WIDTH, STRIDE = 96, 128, 4


def batch(*sizes):
    """Images whose red and green are the position of each pixel's centre; padded to one size."""
    y, x = torch.meshgrid(torch.arange(HEIGHT) + 0.5, torch.arange(WIDTH) + 0.5, indexing="ij")
    masks = torch.stack([(y > h) | (x > w) for h, w in sizes])
    targets = [{"image_id": i, "size": size} for i, size in enumerate(sizes)]
    return {"images": torch.stack([x, y, 0 * x]).repeat(len(sizes), 1, 1, 1), "padding_mask": masks, "targets": targets}


def positions(batch):
    """A map of unit vectors whose cosine distance grows with the distance of positions in the original image."""
    angles = F.avg_pool2d(batch["images"], STRIDE)[:, :2] * np.pi / 2 / WIDTH
    return [torch.cat([angles.cos(), angles.sin()], 1)]


@pytest.mark.parametrize(("spacing", "matches"), [(8, 50), (2, 9999)])
def test_features_that_are_positions_find_all_matches(spacing, matches):
    """The nearest point is within half of a square's diagonal; at borders of the map features are less exact."""
    probe = ViewCorrespondence(spacing=spacing, matches=matches)
    errors = probe.features(positions, batch((HEIGHT, WIDTH), (70, 90)), STRIDE)
    assert max(float(x.max()) for x in errors) < spacing / 2**0.5 + 1
    assert [len(x) for x in errors] == [50, 50] if spacing == 8 else min(map(len, errors)) > 300
    evaluator = MatchRecall(())
    evaluator.update([probe.predict(x, (HEIGHT, WIDTH)) for x in errors], [{"image_id": i} for i in range(2)])
    assert evaluator.metrics() == {"recall5": 1, "recall10": 1, "recall20": 1}


def test_ratio_test_and_sampling_by_hand():
    """Cosine distances 0.2 and 1 - 0.8 * 0.6 - 0.6 * 0.8 = 0.04 to the two nearest: 1 - 0.04 / 0.2."""
    index, weight = nearest(torch.tensor([[4.0, 3.0]]), torch.tensor([[1.0, 0.0], [0.6, 0.8], [-1.0, 0.0]]))
    assert index.tolist() == [1] and weight.item() == pytest.approx(1 - 0.04 / 0.2, abs=1e-5)
    features, points = torch.randn(3, 4, 6), torch.tensor([[4.0, 12.0], [44.0, 28.0]])  # x, y; cells of 8 pixels
    torch.testing.assert_close(sampled(features, points, (32, 48)), features[:, [1, 3], [0, 5]].T)


# ---- missing pixels of the warped view ----

test_a_pixel_is_the_mean_of_valid_pixels = test_missing_pixels.test_a_resampled_pixel_is_the_mean_of_valid_pixels
HOMOGRAPHY = np.array([[0.9, 0.1, 0.5], [-0.2, 1.1, 1.0], [0.005, 0.002, 1.0]])


def view_weights(_: tuple[int, int]) -> np.ndarray:
    """Bilinear, of the nearest pixel outside the image."""
    inverse = np.linalg.inv(HOMOGRAPHY)

    def position(row: int, column: int) -> np.ndarray:
        point = inverse @ [column + 0.5, row + 0.5, 1]
        return np.clip(point[:2] / point[2] - 0.5, 0, [SIZE[1] - 1, SIZE[0] - 1])

    return bilinear_weights(position)


def view(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """The warped image of the probe of correspondence."""
    padding = torch.zeros(1, *size, dtype=torch.bool)
    batch: Batch = {"images": torch.from_numpy(image)[None], "padding_mask": padding, "targets": []}
    return ViewCorrespondence._warped(batch, [HOMOGRAPHY])[0][0].numpy()


@pytest.fixture
def step():
    """Of the test of missing pixels."""
    return view, SIZE, view_weights
