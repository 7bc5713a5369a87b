"""The forward pass of `box_query_detr` composed of its parts: proposals or anchors, then refinement with a bias."""

import pytest
import torch
from torch import nn

from densevit.set_prediction.queries import BoxQueries
from densevit.set_prediction.transformer import Transformer, encode
from densevit_heads.box_query_detr import BoxQueryDetr
from densevit_heads.box_query_detr.extensions import Extensions
from tests.heads.padded_batch import CLASSES, padded_batch, perturbed


@pytest.mark.parametrize("two_stage", [False, True])
def test_boxes_are_refined_layer_by_layer(two_stage: bool):
    extensions = Extensions(stride=8, position_bias=True, two_stage=two_stage)
    head = BoxQueryDetr(
        (6, 10), (8, 16), CLASSES, 5, Transformer(16, 4, 0, 3, 24), classification="mal", extensions=extensions
    )
    perturbed(head, 0.2).eval()
    features, mask, _ = padded_batch((0, 0), ((6, 8), (10, 16)))
    outputs, memory = head(features, mask), encode(head.project(features), mask, 8, [], nn.Identity())
    proposals = head.proposals.best(memory.tokens, memory.centres, memory.padding, 5) if two_stage else None
    anchors = head.anchors.sigmoid().expand(2, -1, -1) if proposals is None else proposals.boxes
    queries = BoxQueries(head.query_embedding.weight.expand(2, -1, -1), anchors)
    parts = (head.decoder_norm, head.box_head, head.box_positions, head.position_bias)
    states, boxes = head.decoder(queries, memory, *parts)
    logits = head.label_head(states)
    if proposals is not None:
        logits, boxes = torch.cat([proposals.logits[None], logits]), torch.cat([anchors[None], boxes])
    torch.testing.assert_close(outputs["layers"], (logits, boxes))
    assert torch.equal(outputs["boxes"], outputs["layers"][1][-1])
