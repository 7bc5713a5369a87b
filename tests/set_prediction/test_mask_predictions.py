"""Predictions from mask queries: a row of ten pixels, and a small image, by hand."""

import pytest
import torch
from torch import Tensor

from densevit.interfaces import Class
from densevit.set_prediction import mask_predictions
from densevit.set_prediction.mask_predictions import (
    MaskLogits,
    class_scores,
    enclosing_boxes,
    instances,
    numbered_segments,
    panoptic,
    semantic,
)

CLASSES = [Class(name, i, (i, i, i), thing=name.islower()) for i, name in enumerate(["cat", "dog", "SKY"])]


def logits_of(probabilities: list[list[float]]) -> Tensor:
    """Logits (Q, K+1) of class probabilities (Q, K); the rest is "no object"."""
    return torch.tensor([[*row, 1 - sum(row)] for row in probabilities]).log()


# The class probabilities of seven queries, and the probabilities of their masks at ten pixels.
QUERIES = [[0.9, 0, 0], [0.95, 0, 0], [0, 0, 0.9], [0, 0, 0.85], [0, 0.9, 0], [0.1, 0, 0], [0, 0.79, 0]]
ROWS = [
    [0.9, 0.9, 0.9, 0.9, 0.6, 0.1, 0.1, 0.1, 0.1, 0.1],  # four of its five pixels remain, just enough
    [0.1, 0.1, 0.1, 0.1, 0.9, 0.9, 0.1, 0.1, 0.1, 0.1],
    [0.1, 0.1, 0.1, 0.1, 0.1, 0.1, 0.9, 0.1, 0.1, 0.1],
    [0.1, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1, 0.9, 0.4, 0.1],  # the largest at a pixel that is not in the mask
    [0.1, 0.1, 0.1, 0.1, 0.1, 0.8, 0.7, 0.1, 0.1, 0.9],  # one of its three pixels remains, which is void
    [0.9] * 10,  # no object
    [0.9] * 10,  # below the threshold
]


@pytest.fixture(params=[1, 20, 2**25], autouse=True)
def chunk(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Maps are computed in chunks of so many values."""
    monkeypatch.setattr(mask_predictions, "_CHUNK_PIXELS", request.param)


def test_each_pixel_goes_to_the_query_with_the_largest_class_times_mask_probability():
    logits, masks = logits_of(QUERIES), MaskLogits(torch.tensor(ROWS).logit()[:, None], 1, (1, 10), (1, 10))
    for threshold, expected in (
        (0.8, [0] * 4 + [1] * 2 + [2000] * 2 + [-1] * 2),
        (0.92, [-1] * 4 + [0] * 2 + [-1] * 4),
    ):
        assert panoptic(logits, masks, CLASSES, threshold).tolist() == [expected]
    sums = [[sum(q[k] * row[i] for q, row in zip(QUERIES, ROWS, strict=True)) for i in range(10)] for k in range(3)]
    torch.testing.assert_close(class_scores(logits, masks)[:, 0], torch.tensor(sums))
    assert semantic(logits, masks).tolist() == [[max(range(3), key=lambda k: sums[k][i]) for i in range(10)]]


IN_IMAGE = torch.tensor([[[2.0, 2.0], [2.0, 2.0]], [[4.0, -4.0], [4.0, -4.0]]])  # of 2 x 2 pixels; the file has 4 x 6
FIRST, SECOND = torch.tensor(2.0).sigmoid().item(), torch.tensor(4.0).sigmoid().item()
PAIRS = [(1, 2, 0.7), (0, 0, 0.5), (0, 1, 0.25), (0, 2, 0.15), (1, 0, 0.12), (1, 1, 0.08)]  # query, class, probability


@pytest.mark.parametrize(
    ("options", "lowest_score", "kept"),
    [
        ({"things": False}, 0.0, [0, 1, 2, 3, 4, 5]),
        ({"things": True}, 0.0, [1, 2, 4, 5]),
        ({"things": False}, 0.14, [0, 1, 2, 3]),
        ({"things": False, "foreground_logit": 3.0}, 0.0, [0, 4, 5, 1, 2, 3]),  # the first mask is empty: score 0
    ],
)
def test_instances_are_pairs_of_query_and_class_with_the_quality_of_their_masks(
    options: dict, lowest_score: float, kept: list[int]
):
    logits = logits_of([[0.5, 0.25, 0.15], [0.12, 0.08, 0.7]])
    predicted = instances(logits, MaskLogits(IN_IMAGE, 1, (2, 2), (4, 6), lowest_score), CLASSES, **options)
    quality = [0 if "foreground_logit" in options else FIRST, SECOND]
    scores = [PAIRS[pair][2] * quality[PAIRS[pair][0]] for pair in kept]
    assert predicted["labels"].tolist() == [PAIRS[pair][1] for pair in kept]
    assert predicted["scores"].tolist() == pytest.approx(scores)
    boxes = [[0, 0, 6, 4] if quality[0] else [0] * 4, [0, 0, 3, 4]]
    assert predicted["boxes"].tolist() == [boxes[PAIRS[pair][0]] for pair in kept]
    row = [[bool(quality[0])] * 6, [True, True, "foreground_logit" not in options, False, False, False]]
    assert predicted["masks"].tolist() == [[row[PAIRS[pair][0]]] * 4 for pair in kept]


@pytest.mark.parametrize(("queries", "most", "expected"), [(60, None, 100), (150, None, 150), (150, 7, 7)])
def test_as_many_instances_are_kept_as_there_are_queries_at_least_a_hundred(queries, most, expected):
    logits, masks = torch.randn(queries, 4), MaskLogits(torch.ones(queries, 1, 1), 1, (1, 1), (1, 1))
    best = logits.softmax(-1)[:, :3].flatten().sort(descending=True).values[:expected]
    torch.testing.assert_close(instances(logits, masks, CLASSES, most)["scores"], best * 0.7310586)


def test_boxes_enclose_masks():
    masks = torch.tensor([[[0, 0, 0], [0, 0, 1], [0, 1, 0]], [[0, 0, 0]] * 3, [[1, 0, 0], [0, 0, 0], [0, 0, 0]]]) > 0
    assert enclosing_boxes(masks).tolist() == [[1, 1, 3, 3], [0, 0, 0, 0], [0, 0, 1, 1]]


def test_things_are_numbered_and_stuff_is_merged():
    labels, valid = torch.tensor([0, 0, 1, 0, 2, 2, 1]), torch.tensor([1, 0, 1, 1, 1, 1, 1]) > 0
    assert numbered_segments(labels, valid, CLASSES).tolist() == [0, -1, 1000, 1, 2000, 2000, 1001]
