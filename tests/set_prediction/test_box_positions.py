"""Position embeddings of boxes and the position bias, written out."""

import itertools
import math

import torch
from torch import nn

from densevit.set_prediction.box_positions import BoxPositionBias, BoxPositions
from densevit.set_prediction.memory import Memory, cell_centres


def test_boxes_are_embedded_by_sines_and_cosines_of_each_number():
    """Wavelengths of 1 and of 20 ** (2 / 4), in units of 2 pi, of a width of 8: 4 channels for each number."""
    positions = BoxPositions(8)
    positions.mlp = nn.Identity()
    positions.mlp.last = nn.Linear(1, 1)
    box = [0.1, 0.4, 0.3, 0.9]
    angles = [2 * math.pi * x / wavelength for x in box for wavelength in (1, 20**0.5)]
    expected = [value for angle in angles for value in (math.sin(angle), math.cos(angle))]
    torch.testing.assert_close(positions(torch.tensor([[box]])), torch.tensor([[expected]]))


def test_position_bias_matches_the_formula():
    """On each axis, an MLP of the log distances to the edges, and the logarithm of a Gaussian about a point of the box;
    lengths in cells of stride 8, which count from the image's corner, point and spread in half boxes."""
    mask = torch.zeros(2, 32, 48, dtype=torch.bool)
    mask[1, 24:], mask[1, :, 32:] = True, True
    bias, boxes, empty = BoxPositionBias(4), 0.2 + 0.5 * torch.rand(2, 5, 4), torch.zeros(0)
    for parameter in bias.parameters():
        parameter.data += 0.3 * torch.randn_like(parameter)
    added = bias(boxes, Memory(empty, empty, empty, empty, *cell_centres(mask, (4, 6), 8), (4, 6)))
    assert added.shape == (2, 4, 5, 24) and added.is_contiguous()  # as the attention scores that it is added to
    sizes = {0: (6, 4), 1: (4, 3)}  # columns and rows of the images
    for b, head, query, row, column in itertools.product(range(2), range(4), range(5), (0, 3), (1, 5)):
        expected = torch.zeros(())
        for axis, (mlp, cell) in enumerate(((bias.columns, column), (bias.rows, row))):
            centre, half = boxes[b, query, axis] * sizes[b][axis], boxes[b, query, axis + 2] * sizes[b][axis] / 2
            edges = torch.stack([cell + 0.5 - (centre - half), cell + 0.5 - (centre + half)])
            learned = mlp((edges.sign() * (edges.abs() + 1).log2() / 3)[None])[0, head]
            spread = 0.5 + half * bias.spreads[axis, head].abs()
            expected = expected + learned - ((cell + 0.5 - centre - half * bias.points[axis, head]) / spread) ** 2 / 2
        torch.testing.assert_close(added[b, head, query, 6 * row + column], expected, rtol=1e-4, atol=1e-5)
