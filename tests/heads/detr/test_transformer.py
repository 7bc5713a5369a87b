"""The pre-norm DETR head beside the paper's formulas with torch's attention; test_parity.py has post-norm."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from densevit.interfaces import Class
from densevit.layers.positions import sine_map
from densevit.set_prediction.memory import cell_centres
from densevit.set_prediction.transformer import Transformer
from densevit_heads.detr import Detr

WIDTH, HEADS, FEEDFORWARD = 16, 4, 24
OPTIONS = Transformer(WIDTH, HEADS, 2, 2, FEEDFORWARD)


def randomise(module: nn.Module) -> None:
    """Norms and biases too: an identity would hide its position."""
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            parameter.copy_(0.3 * torch.randn_like(parameter) + (1.0 if name.endswith("norm.weight") else 0.0))


def torch_attention(ours: nn.Module) -> nn.MultiheadAttention:
    """torch's multi-head attention with our weights."""
    theirs = nn.MultiheadAttention(WIDTH, HEADS, batch_first=True)
    parts = [getattr(ours, name) for name in ("query", "key", "value")]
    theirs.in_proj_weight.data = torch.cat([part.weight for part in parts]).detach()
    theirs.in_proj_bias.data = torch.cat([part.bias for part in parts]).detach()
    theirs.out_proj.load_state_dict(ours.output.state_dict())
    return theirs


def test_pre_norm_head_matches_the_paper_s_formulas():
    """DETR's pre-norm: positions are added after the norm, and encoder and decoder end with a norm."""
    classes = [Class("a", 1, (0, 0, 0)), Class("b", 2, (0, 0, 0))]
    head = Detr((5,), (8,), classes, 4, OPTIONS, pre_norm=True).eval()
    randomise(head)
    features = torch.randn(2, 5, 3, 4)
    mask = torch.zeros(2, 24, 32, dtype=torch.bool)
    mask[1, 16:], mask[1, :, 24:] = True, True

    assert isinstance(head.encoder_norm, nn.LayerNorm)
    cells_padded = torch.zeros(2, 3, 4, dtype=torch.bool)
    cells_padded[1, 2:], cells_padded[1, :, 3:] = True, True
    positions = sine_map(cells_padded, WIDTH).flatten(1, 2)
    padding = cells_padded.flatten(1)
    x = F.conv2d(features, head.project.project.weight, head.project.project.bias).flatten(2).mT

    def feed(layer: nn.Module, x: Tensor) -> Tensor:
        return layer.feedforward.contract(layer.feedforward.expand(x).relu())

    for layer in head.encoder:
        first, second = (residual.norm for residual in layer.residuals)
        y = first(x)
        attend = torch_attention(layer.self_attention)
        x = x + attend(y + positions, y + positions, y, key_padding_mask=padding)[0]
        x = x + feed(layer, second(x))
    memory = head.encoder_norm(x)
    query_positions = head.query_embedding.weight.expand(2, -1, -1)
    q, logits, boxes = torch.zeros_like(query_positions), [], []
    for layer in head.decoder:
        first, second, third = (residual.norm for residual in layer.residuals)
        y = first(q)
        q = q + torch_attention(layer.self_attention)(y + query_positions, y + query_positions, y)[0]
        attend = torch_attention(layer.cross_attention)
        q = q + attend(second(q) + query_positions, memory + positions, memory, key_padding_mask=padding)[0]
        q = q + feed(layer, third(q))
        state = head.decoder_norm(q)
        logits.append(head.label_head(state))
        boxes.append(head.box_head(state).sigmoid())

    outputs = head([features], mask)
    torch.testing.assert_close(outputs["layers"][0], torch.stack(logits), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(outputs["layers"][1], torch.stack(boxes), rtol=1e-4, atol=1e-5)


def test_cell_centres_are_relative_to_the_unpadded_image():
    mask = torch.zeros(2, 32, 64, dtype=torch.bool)
    mask[1, 16:], mask[1, :, 40:] = True, True
    centres, cell = cell_centres(mask, (2, 4), 16)
    assert cell.tolist() == [[0.25, 0.5], pytest.approx([0.4, 1.0])]
    assert centres[0].view(2, 4, 2)[1, 2].tolist() == [0.625, 0.75]
    assert centres[1].view(2, 4, 2)[0, 1].tolist() == pytest.approx([24 / 40, 8 / 16])
