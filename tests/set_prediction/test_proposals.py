"""Dense proposals: their initial state and the best of them."""

import pytest
import torch

from densevit.set_prediction.proposals import Proposals

CENTRES = torch.tensor([[[0.1, 0.2], [0.3, 0.4], [0.5, 0.6], [0.7, 0.8]]])


def test_initial_proposals_are_improbable_and_a_fifth_of_the_image():
    logits, boxes = Proposals(8, 3)(torch.zeros(1, 4, 8), CENTRES)
    assert logits.sigmoid().flatten().tolist() == pytest.approx([0.01] * 12, rel=0.01)
    torch.testing.assert_close(boxes, torch.cat([CENTRES, torch.full((1, 4, 2), 0.2)], dim=2))


def test_the_best_proposals_have_the_highest_score_of_any_class():
    proposals = Proposals(2, 2)
    proposals.label_head.weight.data, proposals.box_head.last.bias.data[0] = torch.eye(2), 1.0
    tokens = torch.tensor([[[1.0, 2.0], [4.0, -9.0], [0.0, 0.0], [5.0, 5.0]]])
    best = proposals.best(tokens, CENTRES, torch.tensor([[False, False, False, True]]), 2)
    assert torch.equal(best.features, tokens[:, [1, 0]]) and torch.equal(best.logits, tokens[:, [1, 0]] - 4.6)
    x = [p * torch.e / (1 - p + p * torch.e) for p in (0.3, 0.1)]
    torch.testing.assert_close(best.boxes, torch.tensor([[[x[0], 0.4, 0.2, 0.2], [x[1], 0.2, 0.2, 0.2]]]))
