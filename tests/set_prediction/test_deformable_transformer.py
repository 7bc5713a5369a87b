"""Layers of the deformable transformer, composed of their attention and norms as in the paper."""

import pytest
import torch
from torch import nn

from densevit.set_prediction.deformable_transformer import DeformableDecoderLayer, DeformableEncoderLayer, encode
from densevit.set_prediction.levels import Levels
from densevit.set_prediction.transformer import Transformer

OPTIONS = Transformer(16, 4, 1, 1, 24, dropout=0.0)
SHAPES = [(2, 3), (1, 2)]


@pytest.fixture
def levels() -> Levels:
    """Two images, the right column of the second one's maps is padding."""
    paddings = [torch.tensor([0, 1]).view(2, 1, 1) * (torch.arange(w) == w - 1).expand(2, h, w) > 0 for h, w in SHAPES]
    return Levels.of([torch.randn(2, 16, *x) for x in SHAPES], paddings, [torch.randn(2, h * w, 16) for h, w in SHAPES])


def perturbed(layer: nn.Module) -> nn.Module:
    """Initial offsets and weights of points do not depend on queries."""
    count = sum(parameter.numel() for parameter in layer.parameters())
    nn.utils.vector_to_parameters(0.3 * torch.randn(count), layer.parameters())
    return layer


def test_the_encoder_attends_at_cell_centres_with_positions_in_queries(levels: Levels):
    layer, x = perturbed(DeformableEncoderLayer(OPTIONS, 2, 3)), levels.tokens
    reference = levels.centres[:, :, None] * levels.valid_ratios[:, None]  # (B, S, L, 2), of each map
    for _ in range(2):
        attended = layer.self_attention(x + levels.positions, reference, x, SHAPES, levels.padding)
        x = layer.self_attention_norm(x + attended)
        x = layer.ffn_norm(x + layer.ffn(x))
    torch.testing.assert_close(encode(levels, [layer, layer]), x)


@pytest.mark.parametrize("groups", [1, 2])
def test_queries_attend_to_their_group_then_to_cells(levels: Levels, groups: int):
    layer, bias = perturbed(DeformableDecoderLayer(OPTIONS, 2, 3)), torch.randn(3, 3)
    inputs = torch.randn(2, 3 * groups, 16), torch.randn(2, 3 * groups, 16), torch.rand(2, 3 * groups, 2, 4)
    states = []
    for x, position, boxes in zip(*(y.split(3, dim=1) for y in inputs), strict=True):
        x = layer.self_attention_norm(x + layer.self_attention(x + position, x + position, x, bias))
        attended = layer.cross_attention(x + position, boxes, levels.tokens, SHAPES, levels.padding)
        x = layer.cross_attention_norm(x + attended)
        states.append(layer.ffn_norm(x + layer.ffn(x)))
    result = layer(*inputs, levels.tokens, SHAPES, levels.padding, bias, groups)
    torch.testing.assert_close(result, torch.cat(states, dim=1))
