"""Measures of attention beside values worked out by hand and brute force."""

import numpy as np
import torch
from torch import Tensor

from densevit_workbench.inspection.attention_layers import PADDING, global_layer, windowed_layer
from densevit_workbench.inspection.attention_measures import mean_attention_distance, query_maps


def weights(*shape: int) -> Tensor:
    return torch.rand(*shape).pow(3).softmax(-1)


def test_distance_equals_brute_force_in_shifted_windows():
    grid, size, window, shift = (5, 7), (40, 56), 4, 2
    layer = windowed_layer("a", weights(4, 3, 16, 16), grid, window, shift)
    totals = np.zeros((3, 35))
    for g, q in np.argwhere(layer.query_cells.numpy() != PADDING):
        query, keys = int(layer.query_cells[g, q]), layer.key_cells[g].numpy()
        distances = 8 * np.hypot(query // 7 - keys // 7, query % 7 - keys % 7)
        for head in range(3):
            inside = np.where(keys == PADDING, 0, layer.weights[g, head, q].numpy())
            totals[head, query] = np.average(distances, weights=inside)
    np.testing.assert_allclose(mean_attention_distance(layer, size).numpy(), totals.mean(1), rtol=1e-5)


def test_query_map_is_the_row_of_the_cell_at_the_point():
    attention = weights(1, 2, 7, 7)
    layer = global_layer("a", attention, (2, 3))
    maps = query_maps(layer, (0.6, 0.99))  # row 1, column 2: cell 5, behind one token
    torch.testing.assert_close(maps, attention[0, :, 6, 1:].unflatten(1, (2, 3)))
