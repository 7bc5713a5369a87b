"""DETR with box queries, written out: proposals, refinement, position bias, fused memory."""

import pytest
import torch
from torch import Tensor, nn

from densevit.interfaces import Class
from densevit.layers.positions import sine_boxes, sine_map
from densevit.set_prediction.box_positions import BoxPositionBias
from densevit.set_prediction.memory import Memory, cell_centres
from densevit.set_prediction.transformer import Transformer
from densevit_heads.dab_detr import DabDetr
from densevit_heads.dab_detr.extensions import Extensions
from tests.heads.padded_batch import perturbed

CLASSES = [Class(name, i, (0, 0, 0)) for i, name in enumerate("abc")]
WIDTH, HEADS, Q = 16, 4, 5


@pytest.fixture
def batch() -> tuple[list[Tensor], Tensor]:
    """Features of strides 8 and 16, and the mask of two images, 32 x 48 and 24 x 32."""
    mask = torch.zeros(2, 32, 48, dtype=torch.bool)
    mask[1, 24:], mask[1, :, 32:] = True, True
    return [torch.randn(2, 6, 4, 6), torch.randn(2, 10, 2, 3)], mask


def make_head(encoder_layers: int = 1, two_stage: bool = False) -> DabDetr:
    transformer = Transformer(WIDTH, HEADS, encoder_layers, 3, 24, dropout=0.0)
    extensions = Extensions(stride=8, position_bias=True, two_stage=two_stage)
    head = DabDetr((6, 10), (8, 16), CLASSES, Q, transformer, classification="mal", extensions=extensions)
    return perturbed(head, 0.2).eval()


def logit(x: Tensor) -> Tensor:
    return torch.log(x / (1 - x))


def attention(layer: nn.Module, query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None = None) -> Tensor:
    """torch's multi-head attention with the weights of `layer`; bias: (B, heads, N, S)."""
    parts = [getattr(layer, name) for name in ("query", "key", "value")]
    theirs = nn.MultiheadAttention(WIDTH, HEADS, batch_first=True)
    theirs.in_proj_weight.data = torch.cat([part.weight for part in parts]).detach()
    theirs.in_proj_bias.data = torch.cat([part.bias for part in parts]).detach()
    theirs.out_proj.load_state_dict(layer.output.state_dict())
    return theirs(query, key, value, attn_mask=None if bias is None else bias.flatten(0, 1), need_weights=False)[0]


def written_out_bias(bias: BoxPositionBias, boxes: Tensor, mask: Tensor, size: tuple[int, int], stride: int) -> Tensor:
    """(B, heads, Q, S): on each axis, an MLP of the log distances to the edges, and the logarithm of a Gaussian about a
    point of the box; lengths in cells, which count from the image's corner, point and spread in half boxes."""
    total = torch.zeros(len(boxes), HEADS, boxes.shape[1], *size)
    for axis, (mlp, unpadded) in enumerate(((bias.columns, ~mask[:, 0]), (bias.rows, ~mask[:, :, 0]))):
        length = unpadded.sum(1)[:, None, None] / stride  # (B, 1, 1), of the image
        at = torch.arange(size[1 - axis]) + 0.5
        centre, half = boxes[..., axis, None] * length, boxes[..., axis + 2, None] / 2 * length  # (B, Q, 1)
        edges = torch.stack([at - (centre - half), at - (centre + half)], dim=-1)  # (B, Q, cells, 2)
        learned = mlp(edges.sign() * (edges.abs() + 1).log2() / 3).permute(0, 3, 1, 2)
        point, spread = (x[axis, :, None, None] for x in (bias.points, bias.spreads))
        offset = at - (centre[:, None] + half[:, None] * point)
        gaussian = -0.5 * (offset / (0.5 + half[:, None] * spread.abs())) ** 2
        values = learned + gaussian  # (B, heads, Q, cells of the axis)
        total = total + (values[..., None, :] if axis == 0 else values[..., None])
    return total.flatten(3)


def memory_of(mask: Tensor) -> Memory:
    """A memory of 4 x 6 cells with their centres and without tokens."""
    empty = torch.zeros(0)
    return Memory(empty, empty, empty, empty, *cell_centres(mask, (4, 6), 8), (4, 6))


def test_position_bias_matches_the_formula(batch: tuple[list[Tensor], Tensor]):
    _, mask = batch
    bias, boxes = BoxPositionBias(HEADS), 0.2 + 0.5 * torch.rand(2, Q, 4)
    with torch.no_grad():
        for parameter in bias.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    found = bias(boxes, memory_of(mask))
    torch.testing.assert_close(found, written_out_bias(bias, boxes, mask, (4, 6), 8), rtol=1e-4, atol=1e-5)
    assert found.is_contiguous()  # as the attention scores that it is added to


@pytest.mark.parametrize("two_stage", [False, True])
def test_boxes_are_refined_layer_by_layer(batch: tuple[list[Tensor], Tensor], two_stage: bool):
    features, mask = batch
    head = make_head(two_stage=two_stage, encoder_layers=0)
    padding = torch.zeros(2, 4, 6, dtype=torch.bool)
    padding[1, 3:], padding[1, :, 4:] = True, True
    tokens = head.project(features).flatten(2).mT
    with_pos = tokens + sine_map(padding, WIDTH).flatten(1, 2)
    attention_bias = torch.zeros(2, 1, 1, 24).masked_fill(padding.flatten(1)[:, None, None], float("-inf"))

    queries = head.query_embedding.weight.expand(2, -1, -1)
    logits, boxes = [], []
    if two_stage:
        scores = head.proposals.label_head(tokens)
        best = scores.amax(-1).masked_fill(padding.flatten(1), -1e9).topk(Q).indices
        centres, _ = cell_centres(mask, (4, 6), 8)
        for b in range(2):
            around = torch.cat([centres[b, best[b]], torch.full((Q, 2), 0.2)], dim=1)
            boxes.append((head.proposals.box_head(tokens[b, best[b]]) + logit(around)).sigmoid())
        logits, boxes = [torch.stack([scores[b, best[b]] for b in range(2)])], [torch.stack(boxes)]
        box = boxes[0]
    else:
        box = head.anchors.sigmoid().expand(2, -1, -1)
    for layer in head.decoder:
        first, second, third = (residual.norm for residual in layer.residuals)
        query_positions = head.box_positions.mlp(sine_boxes(box, WIDTH // 2))
        bias = head.position_bias(box, memory_of(mask)) + attention_bias
        at = queries + query_positions
        queries = first(queries + attention(layer.self_attention, at, at, queries))
        queries = second(queries + attention(layer.cross_attention, queries + query_positions, with_pos, tokens, bias))
        queries = third(queries + layer.feedforward.contract(layer.feedforward.expand(queries).relu()))
        state = head.decoder_norm(queries)
        box = (head.box_head(state) + logit(box)).sigmoid()
        logits.append(head.label_head(state))
        boxes.append(box)

    outputs = head(features, mask)
    torch.testing.assert_close(outputs["layers"][0], torch.stack(logits), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(outputs["layers"][1], torch.stack(boxes), rtol=1e-4, atol=1e-5)
    assert torch.equal(outputs["boxes"], outputs["layers"][1][-1])
