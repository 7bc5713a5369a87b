"""Boxes of a decoder layer by layer, with layers, positions and offsets whose results are known."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from densevit.set_prediction.box_decoder import BoxDecoder
from densevit.set_prediction.memory import Memory
from densevit.set_prediction.queries import BoxQueries


class Steps(nn.Module):
    """A decoder layer whose states are its parameter, half the offset of boxes."""

    def __init__(self, step: float) -> None:
        super().__init__()
        self.step = nn.Parameter(torch.tensor(step))

    def forward(self, x: Tensor, *arguments: Tensor) -> Tensor:
        self.arguments = arguments
        return self.step.expand_as(x)


@pytest.mark.parametrize("bias", [None, 7.0])
def test_layers_refine_boxes_whose_gradient_ends_at_the_layer_before(bias: Any):
    decoder, boxes = BoxDecoder([Steps(0.5), Steps(-1.0), Steps(0.25)]), torch.tensor([[[0.2, 0.5, 0.7, 0.1]]])
    padding, tokens, empty = torch.tensor([0.0, -torch.inf]).view(1, 1, 1, 2), torch.randn(1, 2, 4), torch.zeros(0)
    memory = Memory(tokens, tokens + 1, empty, padding, empty, empty, (1, 2))
    offsets = SimpleNamespace(in_full_precision=lambda x: 2 * x)
    position_bias = None if bias is None else lambda boxes, memory: torch.full((1, 1, 1, 2), bias)
    parts: Any = (torch.neg, offsets, lambda boxes: 10 * boxes, position_bias)
    states, refined = decoder(BoxQueries(torch.zeros(1, 1, 4), boxes), memory, *parts, torch.ones(1, 1))
    assert states[..., 0].flatten().tolist() == [-0.5, 1, -0.25]
    before = (boxes.logit() + torch.tensor([0.0, -1.0, 1.0, 0.5]).view(4, 1, 1, 1)).sigmoid()
    torch.testing.assert_close(refined, before[1:])
    for i, layer in enumerate(decoder):
        expected = (10 * before[i], tokens, tokens + 1, padding + (bias or 0), torch.ones(1, 1))
        torch.testing.assert_close(layer.arguments, expected)
    gradients = torch.autograd.grad(refined[2].sum(), list(decoder.parameters()))
    assert [bool(gradient) for gradient in gradients] == [False, False, True]
