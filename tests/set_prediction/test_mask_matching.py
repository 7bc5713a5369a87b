"""Matching costs of masks, point by point, and the assignment by trying all of them."""

import itertools

import pytest
import torch
from torch.nn import functional as F

from densevit.interfaces import IGNORE
from densevit.set_prediction import mask_matching
from densevit.set_prediction.mask_matching import MaskWeights, mask_costs, match
from densevit.set_prediction.mask_segments import Segments
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
    segments, every = Segments.of(targets, "semantic", 3, maps.device), torch.arange(6)
    points, scales = torch.rand(3, 7, 2), torch.tensor([[0.8, 1.0], [1.0, 1.0], [0.6, 0.9]])
    drawn = itertools.cycle(points[[0, 2]])
    monkeypatch.setattr(mask_matching, "random_points", lambda *_: next(drawn)[None])
    embeddings, logits = torch.randn(2, 3, 4, 5), torch.randn(2, 3, 4, 4)
    pixels = torch.randn(2, 3, 5, 5, 6) if of_each_layer else torch.randn(3, 5, 5, 6)
    costs = mask_costs(embeddings, pixels, segments, scales, 7, WEIGHTS, None)
    pairs = match(MaskQueries(logits, embeddings), pixels, segments, scales, 7, WEIGHTS)
    matched = [
        sorted(zip(*(x.tolist() for x in layer), strict=True)) for layer in zip(pairs.target, pairs.query, strict=True)
    ]

    maps = torch.einsum("lbqc,lbchw->lbqhw", embeddings, pixels.expand(2, 3, 5, 5, 6))
    grid = (2 * points * scales[:, None] - 1).repeat(2, 1, 1)[:, None]  # a row of points
    sampled = F.grid_sample(maps.flatten(0, 1), grid, align_corners=False).view(2, 3, 4, 7).double()
    truth, weights = segments.at(every, points[segments.image]), segments.point_weights(every, points[segments.image])
    for layer in range(2):
        total = {}
        for row, query in itertools.product(range(6), range(4)):
            t, w, image = truth[row].double(), weights[row].double(), 2 * (row // 3)
            p = sampled[layer, image, query].sigmoid()
            entropy = -(t * p.log() + (w - t) * (1 - p).log()).sum() / w.sum()
            cost = 5 * entropy + 3 * (1 - (2 * p @ t + 1) / (p @ w + t.sum() + 1))
            torch.testing.assert_close(costs[layer, row, query].double(), cost, rtol=1e-4, atol=1e-5)
            total[row, query] = cost - 2 * logits[layer, image, query].softmax(0)[segments.labels[row]]
        choices = [
            [*zip(rows, x, strict=True)] for rows in ((0, 1, 2), (3, 4, 5)) for x in itertools.permutations(range(4), 3)
        ]
        best = [
            min(half, key=lambda pairs: sum(total[pair] for pair in pairs)) for half in (choices[:24], choices[24:])
        ]
        assert matched[layer] == [*best[0], *best[1]]
