"""Matching costs of masks, point by point, and the assignment by trying all of them."""

from itertools import cycle, permutations, product

import pytest
import torch
from torch.nn import functional as F

from densevit.interfaces import IGNORE
from densevit.set_prediction import mask_matching
from densevit.set_prediction.mask_matching import MaskWeights, mask_costs, match
from densevit.set_prediction.mask_segments import MaskSegments
from densevit.set_prediction.queries import MaskQueries

WEIGHTS = MaskWeights(2.0, 5.0, 3.0)


@pytest.mark.parametrize("of_each_layer", [False, True])
def test_costs_are_of_labelled_points_and_the_assignment_is_the_cheapest(
    of_each_layer: bool, monkeypatch: pytest.MonkeyPatch
):
    """Of three images, one without segments, with 3 segments, 4 queries and 7 points each, in two layers."""
    maps = torch.randint(3, (3, 6, 8), dtype=torch.uint8)
    maps[0, :, 5:], maps[1] = IGNORE, IGNORE
    targets = [{"semantic": x, "size": (6, 8), "image_id": i} for i, x in enumerate(maps)]
    segments, every = MaskSegments.of(targets, "semantic", 3, maps.device), torch.arange(6)
    points, scales = torch.rand(3, 7, 2), torch.tensor([[0.8, 1.0], [1.0, 1.0], [0.6, 0.9]])
    drawn = cycle(points[[0, 2]])
    monkeypatch.setattr(mask_matching, "random_points", lambda *_: next(drawn)[None])
    embeddings, logits = torch.randn(2, 3, 4, 5), torch.randn(2, 3, 4, 4)
    pixels = torch.randn(2, 3, 5, 5, 6) if of_each_layer else torch.randn(3, 5, 5, 6)
    costs = mask_costs(embeddings, pixels, segments, scales, 7, WEIGHTS, None)
    pairs = match(MaskQueries(logits, embeddings), pixels, segments, scales, 7, WEIGHTS)
    maps = torch.einsum("lbqc,lbchw->lbqhw", embeddings, pixels.expand(2, 3, 5, 5, 6))
    grid = (2 * points * scales[:, None] - 1).repeat(2, 1, 1)[:, None]  # a row of points
    sampled = F.grid_sample(maps.flatten(0, 1), grid, align_corners=False).view(2, 3, 4, 7).double()
    p = sampled.sigmoid()[:, segments.image]  # of the queries of each segment's image, (2, 6, 4, 7)
    t, w = (
        segments.at(every, points[segments.image])[:, None],
        segments.point_weights(every, points[segments.image])[:, None],
    )
    entropy = -(t * p.log() + (w - t) * (1 - p).log()).sum(-1) / w.sum(-1)
    expected = 5 * entropy + 3 * (1 - (2 * (p * t).sum(-1) + 1) / ((p * w).sum(-1) + t.sum(-1) + 1))
    torch.testing.assert_close(costs.double(), expected, rtol=1e-4, atol=1e-5)
    scores = [
        logits.softmax(-1)[:, image, :, label] for image, label in zip(segments.image, segments.labels, strict=True)
    ]
    total = expected - 2 * torch.stack(scores, dim=1)
    for layer, first in product(range(2), (0, 3)):
        queries = dict(zip(pairs.target[layer].tolist(), pairs.query[layer].tolist(), strict=True))
        cost = {
            chosen: sum(total[layer, first + i, q] for i, q in enumerate(chosen))
            for chosen in permutations(range(4), 3)
        }
        assert tuple(queries[first + i] for i in range(3)) == min(cost, key=cost.__getitem__)
