"""Correspondence of views: features that are positions, the ratio test by hand, and padding."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from densevit_probes.correspondence import ViewCorrespondence, nearest, sampled

HEIGHT, WIDTH, STRIDE = 96, 128, 4


def batch(sizes):
    """Images whose red and green are the position of each pixel's centre; padded to one size."""
    y, x = torch.meshgrid(torch.arange(HEIGHT) + 0.5, torch.arange(WIDTH) + 0.5, indexing="ij")
    mask = torch.ones(len(sizes), HEIGHT, WIDTH, dtype=torch.bool)
    for padding, (h, w) in zip(mask, sizes, strict=True):
        padding[:h, :w] = False
    targets = [{"image_id": i, "size": size} for i, size in enumerate(sizes)]
    return {"images": torch.stack([x, y, 0 * x]).repeat(len(sizes), 1, 1, 1), "padding_mask": mask, "targets": targets}


def positions(batch):
    """A map of unit vectors whose cosine distance grows with the distance of positions in the original image."""
    x, y, _ = F.avg_pool2d(batch["images"], STRIDE).unbind(1)
    angles = torch.stack([x, y]) * np.pi / 2 / max(HEIGHT, WIDTH)
    return [torch.cat([angles.cos(), angles.sin()]).transpose(0, 1)]


def recalls(probe, features):
    truths = [{"image_id": i} for i in range(len(features))]
    probe.update([{"feature": x} for x in features], truths)
    return probe.compute()


def test_features_that_are_positions_find_all_matches():
    """The points of the other view are 8 pixels apart, so that the nearest is within half of a square's diagonal."""
    probe = ViewCorrespondence(spacing=8, matches=50)
    features = probe.features(positions, batch([(HEIGHT, WIDTH), (70, 90)]))
    assert [len(x) for x in features] == [50, 50]
    assert max(float(x.max()) for x in features) < 4 * 2**0.5 + 0.5
    assert recalls(probe, features) == {"recall5": 1, "recall10": 1, "recall20": 1}
    fine = ViewCorrespondence(spacing=2)  # all points
    assert recalls(fine, fine.features(positions, batch([(HEIGHT, WIDTH)])))["recall5"] == 1


def test_features_of_nothing_find_matches_by_chance_only():
    """The share of the image's area that 20 pixels around a point cover is a sixth at most."""
    probe = ViewCorrespondence(spacing=8)
    encode = lambda batch: [torch.randn(1, 16, HEIGHT // STRIDE, WIDTH // STRIDE)]  # noqa: E731
    metrics = recalls(probe, probe.features(encode, batch([(HEIGHT, WIDTH)])))
    assert metrics["recall10"] < metrics["recall20"] < 0.25


def test_identical_views_match_exactly(monkeypatch):
    monkeypatch.setattr(ViewCorrespondence, "_homography", lambda self, size, image_id: np.eye(3))
    probe = ViewCorrespondence(spacing=8)
    [errors] = probe.features(positions, batch([(70, 90)]))
    assert len(errors) == 9 * 11 and float(errors.max()) < 1e-3  # all squares whose centre is in the image


def test_views_follow_the_seed_and_the_image_and_the_corners_move_by_the_jitter():
    probe, other = ViewCorrespondence(), ViewCorrespondence(seed=1)
    matrix = probe._homography((60, 80), "a")
    assert (matrix == ViewCorrespondence()._homography((60, 80), "a")).all()
    assert not np.allclose(matrix, probe._homography((60, 80), "b"))
    assert not np.allclose(matrix, other._homography((60, 80), "a"))
    corners = np.array([[0, 0, 1], [80, 0, 1], [80, 60, 1], [0, 60, 1]]) @ matrix.T
    moves = np.abs(corners[:, :2] / corners[:, 2:] - [[0, 0], [80, 0], [80, 60], [0, 60]]) / [80, 60]
    assert 0.05 < moves.max() < 0.2


def test_ratio_test_by_hand():
    """Cosine distances 0.2 and 1 - 0.8 * 0.6 - 0.6 * 0.8 = 0.04 to the two nearest: 1 - 0.04 / 0.2."""
    index, weight = nearest(torch.tensor([[4.0, 3.0]]), torch.tensor([[1.0, 0.0], [0.6, 0.8], [-1.0, 0.0]]))
    assert index.tolist() == [1] and weight.item() == pytest.approx(1 - 0.04 / 0.2, abs=1e-5)


def test_features_are_sampled_at_centres_of_cells():
    features = torch.randn(3, 4, 6)
    points = torch.tensor([[4.0, 12.0], [44.0, 28.0]])  # x, y; cells of 8 pixels
    torch.testing.assert_close(sampled(features, points, (32, 48)), features[:, [1, 3], [0, 5]].T)
