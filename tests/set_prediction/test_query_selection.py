"""Cells that propose boxes, and the queries that are selected from them, on two small levels."""

import pytest
import torch
from torch import Tensor

from densevit.set_prediction.levels import Levels
from densevit.set_prediction.prediction_layers import box_head, label_head
from densevit.set_prediction.query_selection import TwoStage, initial_boxes


def two_levels(first: list[bool], second: bool, value: float = 1.0) -> Levels:
    """A map of 1 x 3 cells, then one of 1 x 1; the cells `first` and `second` are padding."""
    maps = [value * torch.arange(6.0).view(1, 2, 1, 3), value * torch.full((1, 2, 1, 1), 9.0)]
    return Levels.of(maps, [torch.tensor([[first]]), torch.tensor([[[second]]])])


def test_initial_boxes_are_at_the_centres_with_sides_that_double():
    boxes, valid = initial_boxes(two_levels([False] * 3, False))
    expected = [[1 / 6, 0.5, 0.05, 0.05], [0.5, 0.5, 0.05, 0.05], [5 / 6, 0.5, 0.05, 0.05], [0.5, 0.5, 0.1, 0.1]]
    torch.testing.assert_close(boxes, torch.tensor([expected]))
    assert valid.all()


def test_cells_of_padding_and_at_the_border_propose_nothing():
    _, valid = initial_boxes(two_levels([False, False, True], False))
    assert valid.tolist() == [[True, True, False, True]]
    row = torch.zeros(1, 1, 60, dtype=torch.bool)
    _, valid = initial_boxes(Levels.of([torch.zeros(1, 2, 1, 60)], [row]))  # the first centre is at 0.5 / 60 < 0.01
    assert valid[0].nonzero().flatten().tolist() == list(range(1, 59))


@pytest.mark.parametrize(
    ("all_classes", "padding_last", "best"), [(False, True, [1, 2]), (True, True, [2, 0]), (True, False, [3, 2])]
)
def test_two_stages_rank_by_the_first_logit_or_the_best_class(all_classes: bool, padding_last: bool, best: list[int]):
    two_stage = TwoStage(2, 4, label_head(4, 2), box_head(4), all_classes, padding_last)
    logits = torch.tensor([[[0.0, 5.0], [3.0, 0.0], [1.0, 6.0], [0.0, 7.0]]])
    boxes = torch.rand(1, 4, 4)
    padding = torch.tensor([[False, False, False, True]])
    found = two_stage.best(type(two_stage.propose(*tokens_of(4)))(logits, boxes, padding))
    assert torch.equal(found[0], logits[:, best]) and torch.equal(found[1], boxes[:, best])


def tokens_of(width: int) -> tuple[Tensor, Levels]:
    levels = Levels.of([torch.zeros(1, width, 1, 2)], [torch.zeros(1, 1, 2, dtype=torch.bool)])
    return levels.tokens, levels
