"""Denoising queries of three images with 2, 0 and 1 objects: their places, boxes, labels and masks, by hand."""

from typing import Any

import pytest
import torch

from densevit.losses.matching import Objects
from densevit.set_prediction.denoising import ContrastiveDenoising, Denoising, DenoisingQueries, build_denoising
from densevit.set_prediction.queries import BoxQueries

BOXES = torch.tensor([[0.5, 0.5, 0.4, 0.2], [0.9, 0.2, 0.2, 0.1], [0.5, 0.5, 0.4, 0.2]])
OBJECTS = Objects(BOXES, torch.tensor([3, 0, 1]), torch.tensor([0, 0, 2]), [2, 0, 1], ["a", "b", "c"])
OBJECT_QUERIES = [8, 9, 10]


@pytest.mark.parametrize(
    ("denoising", "groups", "query"),
    [
        (Denoising(6, 4, groups=4), [[0, 1], [2, 3], [4, 5], [6, 7]], [0, 1, 0, 2, 3, 2, 4, 5, 4, 6, 7, 6]),
        # 5 // 2 = 2 groups; negative queries are listed last, and follow the positive queries of their group
        (ContrastiveDenoising(6, 4, 5), [[0, 1, 2, 3], [4, 5, 6, 7]], [0, 1, 0, 4, 5, 4, 2, 3, 2, 6, 7, 6]),
    ],
)
def test_a_group_attends_to_itself_and_to_the_object_queries(
    denoising: Any, groups: list[list[int]], query: list[int], monkeypatch: pytest.MonkeyPatch
):
    """Corners move by 0.6 and -0.4 of 0.4 half sizes, those of negative queries by 1.6 and -1.4."""
    denoising.label_noise = 0.0
    monkeypatch.setattr(torch, "rand_like", lambda x: torch.tensor([0.8, 0.8, 0.3, 0.3]).expand_as(x).clone())
    queries = denoising(OBJECTS, num_queries=3)
    rows = [image[0] for image in queries.attention_bias.tolist()]
    visible = [[[key for key, bias in enumerate(row) if bias == 0] for row in image] for image in rows]
    every, odd = ([[*group[::step], *OBJECT_QUERIES] for group in groups for _ in group] for step in (1, 2))
    assert visible == [x + [OBJECT_QUERIES] * 3 for x in (every, [OBJECT_QUERIES] * 8, odd)]  # the second: only padding
    copies = len(query) // len(groups) // 3
    assert (queries.image.tolist(), queries.query.tolist()) == ([0, 0, 2] * 4, query)
    assert queries.target.tolist() == [0, 1, 2] * (4 // copies)
    noised = torch.tensor([[0.508, 0.504, 0.32, 0.16], [0.904, 0.202, 0.16, 0.08]])
    negative = torch.tensor([[0.508, 0.504, 0.16, 0.08], [0.904, 0.202, 0.08, 0.04]])
    expected = torch.cat([noised, negative if copies == 2 else noised] * 2)
    torch.testing.assert_close(queries.boxes[0], expected)
    torch.testing.assert_close(queries.boxes[2, ::2], expected[::2])
    assert (queries.boxes[2, 1::2] == 0.5).all() and not queries.contents[1].any()
    assert torch.equal(queries.contents[0], denoising.label_embedding.weight[[3, 0, 3, 0] * 2])


def test_noise_is_as_large_as_its_options():
    """A resampled label is the same in one of four cases. Boxes stay in the image and have positive sizes."""
    many = Objects(BOXES[1:2].expand(4000, 4), torch.full((4000,), 2), torch.zeros(4000).long(), [4000], ["a"])
    denoising = Denoising(1, 4, 1, label_noise=0.4, box_noise=3.0)
    denoising.label_embedding.weight.data = torch.arange(4.0)[:, None]
    queries = denoising(many, num_queries=1)
    labels = queries.contents[0, :, 0].long().bincount(minlength=4) / 4000
    assert labels.tolist() == pytest.approx([0.1, 0.1, 0.7, 0.1], abs=0.02)
    centre, size = queries.boxes[0].split(2, dim=1)
    least, most = (centre - size / 2).amin(0).tolist(), (centre + size / 2).amax(0).tolist()
    assert size.min() >= 0 and least == pytest.approx([0.5, 0.0], abs=0.01)  # 0.8 - 3 * 0.1
    assert most == pytest.approx([1.0, 0.4], abs=0.01)  # 0.25 + 3 * 0.05


@pytest.mark.parametrize(("counts", "groups"), [([2, 0, 3], 3), ([11], 1), ([0], 10), ([], 10)])
def test_groups_fit_into_the_image_with_the_most_objects(counts: list[int], groups: int):
    assert ContrastiveDenoising(4, 2, num_positives=10).groups_of(counts) == groups
    kinds = [build_denoising(4, 2, groups, 0), build_denoising(4, 2, 0, groups), build_denoising(4, 2, 0, 0)]
    assert [type(kind) for kind in kinds] == [Denoising, ContrastiveDenoising, type(None)]


def test_denoising_queries_go_before_object_queries_and_their_predictions_are_split():
    index = torch.tensor([0, 1]), torch.tensor([1, 0])
    queries = DenoisingQueries(torch.zeros(2, 2, 1), torch.zeros(2, 2, 4), torch.zeros(()), *index, torch.tensor([5]))
    contents, boxes = queries.prepended_to(BoxQueries(torch.ones(2, 3, 1), torch.ones(2, 3, 4)))
    assert contents[0, :, 0].tolist() == boxes[1, :, 3].tolist() == [0, 0, 1, 1, 1]
    values = torch.arange(20).view(2, 2, 5, 1)
    (*denoising, target), logits, boxes = queries.split(values, -values)
    assert [x[..., 0].tolist() for x in denoising] == [[[1, 5], [11, 15]], [[-1, -5], [-11, -15]]]
    assert torch.equal(logits, values[:, :, 2:]) and torch.equal(boxes, -logits) and target.tolist() == [5]
    assert torch.equal(DenoisingQueries.none(boxes[0]).prepended_to(BoxQueries(boxes[0], boxes[0])).boxes, boxes[0])
