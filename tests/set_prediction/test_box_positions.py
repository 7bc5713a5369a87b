"""Position embeddings of boxes and the position bias, written out."""

import math

import torch
from torch import Tensor, nn

from densevit.set_prediction.box_positions import BoxPositionBias, BoxPositions
from densevit.set_prediction.memory import Memory, cell_centres

HEADS, Q = 4, 5


def test_boxes_are_embedded_by_sines_and_cosines_of_each_number():
    """Wavelengths of 1 and of 20 ** (2 / 4), in units of 2 pi, of a width of 8: 4 channels for each number."""
    positions = BoxPositions(8)
    positions.mlp = nn.Identity()
    positions.mlp.last = nn.Linear(1, 1)
    box = [0.1, 0.4, 0.3, 0.9]
    angles = [2 * math.pi * x / wavelength for x in box for wavelength in (1, 20**0.5)]
    expected = [value for angle in angles for value in (math.sin(angle), math.cos(angle))]
    torch.testing.assert_close(positions(torch.tensor([[box]])), torch.tensor([[expected]]))


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


def test_position_bias_matches_the_formula():
    mask = torch.zeros(2, 32, 48, dtype=torch.bool)
    mask[1, 24:], mask[1, :, 32:] = True, True
    bias, boxes, empty = BoxPositionBias(HEADS), 0.2 + 0.5 * torch.rand(2, Q, 4), torch.zeros(0)
    with torch.no_grad():
        for parameter in bias.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    added = bias(boxes, Memory(empty, empty, empty, empty, *cell_centres(mask, (4, 6), 8), (4, 6)))
    torch.testing.assert_close(added, written_out_bias(bias, boxes, mask, (4, 6), 8), rtol=1e-4, atol=1e-5)
    assert added.is_contiguous()  # as the attention scores that it is added to
