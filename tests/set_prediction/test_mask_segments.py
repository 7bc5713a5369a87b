"""Segments of maps and of instance masks, their values at points, and the choice of points."""

from typing import Any

import pytest
import torch

from densevit.interfaces import IGNORE
from densevit.set_prediction import mask_segments
from densevit.set_prediction.mask_segments import (
    MaskSegments,
    chunks,
    random_points,
    sample,
    segment_counts,
    segment_ids,
    uncertain_points,
)
from densevit.targets import RunLengthMasks

CPU = torch.device("cpu")
SEMANTIC = torch.tensor([[0, 0, IGNORE], [1, 3, 3], [1, IGNORE, 9]], dtype=torch.uint8)
MASKS = torch.stack([value == SEMANTIC for value in (0, 1, 3)])
# The same three segments of an image of 3 x 3, and an image of 2 x 4 without segments.
LABELLED: dict[str, Any] = {
    "panoptic": torch.tensor([[0, 0, -1], [1002, 3000, 3000], [1002, 1005, 9000]], dtype=torch.int32),
    "panoptic_crowds": [1005], "semantic": SEMANTIC, "size": (3, 3), "image_id": "a",
    "masks": RunLengthMasks.from_dense(MASKS, (3, 3)), "labels": torch.tensor([0, 1, 3]),
}  # fmt: skip
EMPTY: dict[str, Any] = {
    "panoptic": torch.full((2, 4), -1, dtype=torch.int32), "semantic": torch.full((2, 4), IGNORE, dtype=torch.uint8),
    "masks": RunLengthMasks.from_dense(torch.zeros(0, 2, 4, dtype=torch.bool), (2, 4)), "image_id": "b",
    "labels": torch.zeros(0, dtype=torch.long), "size": (2, 4),
}  # fmt: skip
CENTRES = [[(column + 0.5) / 3, (row + 0.5) / 3] for row in range(3) for column in range(3)]


@pytest.mark.parametrize(
    ("task", "ids", "counts", "weights"),
    [
        ("panoptic", [0, 1002, 3000], [3, 3], [0.75, 1, 1, 1, 0.25]),
        ("semantic", [0, 1, 3], [3, 3], [0.75, 1, 1, 1, 0.25]),
        ("instance", [1, 1, 1], [3, 0, 3], None),  # an image without objects is labelled, a map of void is not
    ],
)
def test_segments_leave_out_void_crowds_and_unknown_classes(task: Any, ids: list[int], counts: list[int], weights: Any):
    targets = [LABELLED, EMPTY, LABELLED]
    segments = MaskSegments.of(targets, task, 4, CPU)
    assert segments.ids.tolist() == ids * 2 and segments.labels.tolist() == [0, 1, 3] * 2
    assert (segments.counts, segments.names) == ([3, 0, 3], ["a", "b", "a"])
    assert segments.image.tolist() == [0] * 3 + [2] * 3 and segments.sizes == [(3, 3), (2, 4), (3, 3)]
    assert segment_counts(targets, task, 4) == counts
    # Points between four pixels, two pixels, at the corner, at a quarter from one pixel to the next, and at the edge.
    between = [[2 / 3, 1 / 3], [1 / 3, 1 / 2], [0.0, 0.0], [1 / 4, 1 / 6], [3 / 4, 0.0]]
    last, points = torch.tensor([3, 4, 5]), torch.tensor(CENTRES + between).expand(3, -1, -1)
    values, weight = segments.at(last, points), segments.point_weights(last, points)
    assert torch.equal(values[:, :9], MASKS.flatten(1).float())
    expected = torch.tensor([[0.25, 0, 0.25, 1, 0.125], [0, 0.5, 0, 0, 0], [0.5, 0.5, 0, 0, 0]])
    torch.testing.assert_close(values[:, 9:], expected)
    if weight is None:
        assert weights is None
        return
    assert segment_ids([target[task] for target in targets], targets, task, 4) == [ids, [], ids]
    torch.testing.assert_close(weight, torch.cat([MASKS.any(0).flatten(), torch.tensor(weights)]).expand(3, -1))
    labelled = MaskSegments.of([{**LABELLED, task: torch.zeros_like(LABELLED[task])}], task, 4, CPU)
    assert labelled.point_weights(last - 3, points) is None


def test_uncertain_points_are_those_with_logits_nearest_zero_and_labelled(monkeypatch: pytest.MonkeyPatch):
    """The logit is 8 times the position on the map, minus 2; the image is the left half of the map."""
    maps = (torch.arange(8) + 0.5 - 2).expand(1, 4, 8)
    points = {12: [0.2, 0.52, 0.9, 0.35, 0.4, 0.55, 0.8, 0.85, 0.15, 0.7, 0.75, 0.3], 1: [0.01]}  # zero is at 0.5
    drawn = {count: torch.tensor([[[value, 0.5] for value in values]]) for count, values in points.items()}
    monkeypatch.setattr(mask_segments, "random_points", lambda rows, count, *_: drawn[count])
    weights = [lambda points: None, lambda points: (points[..., 0] < 0.5).float()]
    chosen = [
        uncertain_points(maps, torch.tensor([[0.5, 1.0]]), 4, None, weight)[0, :, 0].tolist() for weight in weights
    ]
    assert chosen == [pytest.approx([0.52, 0.55, 0.4, 0.01]), pytest.approx([0.4, 0.35, 0.3, 0.01])]


def test_points_are_uniform_and_maps_are_sampled_between_cells():
    points = random_points(2, 500, CPU, torch.Generator().manual_seed(0))
    assert points.shape == (2, 500, 2) and 0 <= points.min() < 0.01 and 0.99 < points.max() <= 1
    maps = torch.tensor([[[[1.0, 2.0], [3.0, 5.0]], [[0.0, 0.0], [0.0, 8.0]]]])
    at = torch.tensor([[[0.25, 0.25], [0.75, 0.25], [0.5, 0.5], [0.25, 0.75]]])  # x, y
    assert sample(maps, at).tolist() == [[[1, 2, 2.75, 3], [0, 0, 2, 0]]]
    edge = torch.tensor([[[0.0, 0.25], [1.0, 1.0]]])  # half a cell beyond a centre: on the border
    assert sample(maps, edge).tolist() == [[[0.5, 1.25], [0, 2]]]
    assert sample(maps, edge, "border").tolist() == [[[1, 5], [0, 8]]]


@pytest.mark.parametrize(
    ("layers", "values", "ends"), [(5, 2**23, [2, 4, 5]), (3, 2**30, [1, 2, 3]), (3, 0, [3]), (2, 2**23, [2])]
)
def test_chunks_of_layers_fit_into_memory(layers: int, values: int, ends: list[int]):
    assert list(chunks(layers, values)) == [slice(a, b) for a, b in zip([0, *ends], ends, strict=False)]
