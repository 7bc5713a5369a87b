"""Measures of attention beside values worked out by hand and brute force."""

import numpy as np
import pytest
import torch
from torch import Tensor

import densevit
from densevit_workbench.inspection import attention_measures
from densevit_workbench.inspection.attention_layers import PADDING, global_layer, windowed_layer
from densevit_workbench.inspection.attention_measures import mean_attention_distance, query_maps
from densevit_workbench.inspection.parts import inspector_of
from densevit_workbench.inspection.recording import recorded_attention


def weights(*shape: int) -> Tensor:
    return torch.rand(*shape).pow(3).softmax(-1)


def test_distance_leaves_out_tokens_and_pools_keys():
    """A class token with half of the weight; the only key cell covers the whole image, so its centre is (4, 8)."""
    layer = global_layer("a", torch.tensor([[[[1.0, 0.0], [0.5, 0.5], [0.5, 0.5]]]]), (1, 2), (1, 1))
    assert mean_attention_distance(layer, (8, 16)).tolist() == [4.0]  # from (4, 4) and (4, 12)


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


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("swin", {"window_size": 3}),
        ("swin", {"window_size": 3, "version": 2}),
        ("vit", {"patch_size": 8, "windows": {"size": 3}, "class_token": False}),
        ("mvit", {}),
    ],
)
def test_cells_of_groups_are_those_that_influence_each_other(name, options):
    """The gradient of one layer's output at a cell reaches exactly the cells of its group (and pooled neighbours)."""
    backbone = densevit.create_backbone(name, variant="nano", **options).eval()
    size = (56, 72)
    with recorded_attention(backbone) as found:
        backbone(torch.randn(1, 3, *size))
    layers = inspector_of(backbone).attention(backbone, found, size)
    for layer, one in zip(layers, found, strict=True):
        groups, _, Q, K = layer.weights.shape
        assert layer.query_cells.shape == (groups, Q) and layer.key_cells.shape == (groups, K)
        cells = layer.query_cells[layer.query_cells >= 0]
        assert sorted(cells.tolist()) == list(range(layer.query_grid[0] * layer.query_grid[1]))
        if layer.window is None or layer.query_grid[0] < 3:
            continue
        height, width = layer.query_grid
        module = one.module
        if name == "vit":
            continue  # its windows are cut outside of the module
        x = torch.randn(1, height, width, len(module.output.weight), requires_grad=True)
        out = module(x)
        for cell in (0, height * width // 2, height * width - 1):
            [gradient] = torch.autograd.grad(out[0, cell // width, cell % width].sum(), x, retain_graph=True)
            reached = set((gradient[0].abs().sum(-1).flatten() > 1e-20).nonzero()[:, 0].tolist())
            group = (layer.query_cells == cell).any(1).nonzero()[0, 0]
            row = layer.weights[group].amax(0)[(layer.query_cells[group] == cell).nonzero()[0, 0]]
            seen = {int(c) for c, w in zip(layer.key_cells[group], row, strict=True) if c >= 0 and w > 1e-20}
            assert reached == seen


def test_query_map_is_the_row_of_the_cell_at_the_point():
    attention = weights(1, 2, 7, 7)
    layer = global_layer("a", attention, (2, 3))
    maps = query_maps(layer, (0.6, 0.99))  # row 1, column 2: cell 5, behind one token
    torch.testing.assert_close(maps, attention[0, :, 6, 1:].unflatten(1, (2, 3)))


def test_position_similarity_is_the_cosine():
    embeddings = torch.tensor([[[2.0, 0.0], [0.0, 1.0]], [[-3.0, 0.0], [1.0, 1.0]]])
    assert attention_measures.position_similarity(embeddings)[0, 0].flatten().tolist() == pytest.approx(
        [1, 0, -1, 0.5**0.5]
    )
