"""Selection of cells, products of mask embeddings, and tables of another number of queries."""

import pytest
import torch

from densevit.set_prediction.queries import TopCells, mask_logits, resized_queries


@pytest.mark.parametrize(("count", "expected"), [(2, [[3, 0], [1, 0]]), (9, [[3, 0, 2, 1], [1, 0, 2, 3]])])
def test_top_cells_are_by_descending_score_and_padding_last(count: int, expected: list[list[int]]):
    scores = torch.tensor([[2.0, 9.0, 1.0, 3.0], [0.5, 0.7, -1.0, 8.0]])
    padding, cells = scores > 5, torch.arange(4).expand(2, 4)[..., None]
    first, second = TopCells()(scores, padding, count, cells, -cells.repeat(1, 1, 2))
    assert first[..., 0].tolist() == expected and torch.equal(second, -first.repeat(1, 1, 2))


def test_mask_logits_are_products_in_full_precision():
    embeddings = torch.tensor([[[1.0, 2.0], [-1.0, 0.5]]], dtype=torch.bfloat16)  # (1, 2, 2)
    with torch.autocast("cpu", torch.bfloat16):
        logits = mask_logits(embeddings, torch.tensor([[[[1.0, 3.0]], [[256.0, 4.0]]]]))  # (1, 2, 1, 2)
    assert logits.dtype == torch.float32 and logits.tolist() == [[[[513, 11]], [[127, -1]]]]


@pytest.mark.parametrize(("number", "expected"), [(1, [1, 5]), (2, [1, 1, 5, 5]), (3, [1, 1, 1, 5, 5, 5])])
def test_each_group_keeps_its_first_queries_or_gets_copies(number: int, expected: list[int]):
    """Of two groups; queries of a group are equal, so that copies are, too: their noise is of the group's deviation."""
    resized = resized_queries(torch.tensor([[1.0, 1.0, 5.0, 5.0]]), number, groups=2, dim=1)
    assert resized is not None and resized[0].tolist() == [expected]
    assert resized_queries(torch.ones(4, 1), number, groups=3) is None
