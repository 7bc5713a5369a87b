"""Deformable attention beside `grid_sample` and transformers' modules, and exported."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from densevit.layers.deformable_attention import MultiScaleDeformableAttention, multi_scale_deformable_attention
from densevit.layers.fast.replacement import replace_layers
from tests.gradient_comparison import assert_same_with_gradients

SHAPES = [(5, 7), (4, 3), (1, 1), (1, 6)]


def make_inputs(shapes=SHAPES, batch=2, queries=9, heads=3, width=5, points=2, dtype=torch.float32):
    """Random value, locations and weights; about a third of the points is outside the maps."""
    generator = torch.Generator().manual_seed(0)
    cells = sum(height * width for height, width in shapes)
    points = (batch, queries, heads, len(shapes), points)
    value = torch.randn(batch, cells, heads, width, generator=generator, dtype=dtype)
    locations = torch.rand(*points, 2, generator=generator, dtype=dtype) * 1.5 - 0.25
    weights = torch.randn(points, generator=generator, dtype=dtype).flatten(-2).softmax(-1).view(points)
    return [x.requires_grad_() for x in (value, locations, weights)]


def grid_sample_formulation(value, shapes, locations, weights):
    """The usual formulation: a `grid_sample` for each level, then a weighted sum over all points."""
    B, _, N, D = value.shape
    levels = value.split([height * width for height, width in shapes], dim=1)
    samples = []
    for level, (x, (H, W)) in enumerate(zip(levels, shapes, strict=True)):
        x = x.permute(0, 2, 3, 1).reshape(B * N, D, H, W)
        grid = 2 * locations[:, :, :, level].transpose(1, 2).flatten(0, 1) - 1  # (B * N, Q, P, 2)
        samples.append(F.grid_sample(x, grid, mode="bilinear", padding_mode="zeros", align_corners=False))
    x = torch.stack(samples, -2).flatten(-2)  # (B * N, D, Q, L * P)
    x = (x * weights.transpose(1, 2).flatten(0, 1).flatten(-2)[:, None]).sum(-1)
    return x.view(B, N * D, -1).transpose(1, 2)


CASES = [(SHAPES, 2, (0, 1, 2)), ([(6, 4)], 1, (1,)), ([(1, 1)], 4, (2,)), ([(1, 9), (9, 1)], 4, (0,))]


@pytest.mark.parametrize(("shapes", "points", "learned"), CASES, ids=str)
def test_values_and_gradients_match_grid_sample(shapes, points, learned):
    """Also if only the values, the locations or the weights have a gradient."""
    inputs = [x.detach().requires_grad_(i in learned) for i, x in enumerate(make_inputs(shapes, points=points))]
    value, locations, weights = inputs
    ours = multi_scale_deformable_attention(value, shapes, locations, weights)
    others = grid_sample_formulation(value, shapes, locations, weights)
    assert_same_with_gradients([ours], [others], [inputs[i] for i in learned])


@pytest.mark.parametrize("sampling", ["grid_sample", "discrete"])
def test_points_per_level_and_discrete_sampling_match_transformers(sampling):
    modeling = pytest.importorskip("transformers.models.rt_detr_v2.modeling_rt_detr_v2")
    points = [3, 1, 2, 2]
    value, locations, weights = make_inputs(points=2)  # 8 points in all
    inputs = [value, locations.detach().flatten(3, 4).requires_grad_(), weights.detach().flatten(3).requires_grad_()]
    ours = multi_scale_deformable_attention(inputs[0], SHAPES, *inputs[1:], points=points, sampling=sampling)
    method = "default" if sampling == "grid_sample" else sampling
    others = modeling.multi_scale_deformable_attention_v2(inputs[0], SHAPES, *inputs[1:], points, method)
    assert_same_with_gradients([ours], [others], inputs if sampling == "grid_sample" else [inputs[0], inputs[2]])


def test_locations_are_in_fp32_under_autocast():
    """A point at 1022.75 cells has 3/4 of cell 1023; bf16 would round it to 1024."""
    module = MultiScaleDeformableAttention(4, levels=1, heads=2, points=1)
    nn.init.zeros_(module.offsets.bias)
    nn.init.eye_(module.value.weight)
    nn.init.eye_(module.output.weight)
    memory = torch.arange(2048.0).remainder(2)[None, :, None].expand(1, -1, 4)
    reference = torch.tensor([1023.25 / 2048, 0.5]).view(1, 1, 1, 2)
    with torch.autocast("cpu", torch.bfloat16):
        x = module(torch.randn(1, 1, 4), reference, memory, [(1, 2048)])
    torch.testing.assert_close(x.float(), torch.full((1, 1, 4), 0.75), atol=1e-3, rtol=0)


class FromMaps(nn.Module):
    """The module on feature maps, whose sizes a compiled or exported graph keeps dynamic."""

    def __init__(self):
        super().__init__()
        self.attention = MultiScaleDeformableAttention(32, 2, 4, 2)
        for parameter in self.parameters():
            nn.init.normal_(parameter, std=0.4)

    def forward(self, query, reference, fine, coarse):
        memory = torch.cat([x.flatten(2).transpose(1, 2) for x in (fine, coarse)], dim=1)
        return self.attention(query, reference, memory, [tuple(x.shape[-2:]) for x in (fine, coarse)])


def make_maps(batch, queries, size):
    height, width = size
    maps = torch.randn(batch, 32, height, width), torch.randn(batch, 32, height // 2 + 1, width // 2 + 1)
    return torch.randn(batch, queries, 32), torch.rand(batch, queries, 2, 4), *maps


SIZES = [(3, 10, (8, 12)), (5, 7, (6, 16)), (6, 11, (9, 13))]  # batch, queries, map


@pytest.mark.integration
@pytest.mark.parametrize("replaced", [False, True])
def test_exported_with_dynamic_batch_and_size(replaced):
    """replaced: with the faster function, as in a built model."""
    module, auto = FromMaps(), torch.export.Dim.AUTO
    if replaced:
        replace_layers(module)
    tokens, grid = {0: auto, 1: auto}, {0: auto, 2: auto, 3: auto}
    program = torch.export.export(module, make_maps(*SIZES[0]), dynamic_shapes=(tokens, tokens, grid, grid))
    for size in SIZES:
        inputs = make_maps(*size)
        torch.testing.assert_close(program.module()(*inputs), module(*inputs), atol=1e-5, rtol=1e-5)


VALUE, *POINTS = make_inputs()


@pytest.mark.parametrize(
    ("call", "facts"),
    [
        (lambda: multi_scale_deformable_attention(VALUE, SHAPES[:1], *POINTS), "54.*35"),
        (lambda: multi_scale_deformable_attention(VALUE, [(6, 9)], *POINTS), "4 levels.* 1"),
        (lambda: MultiScaleDeformableAttention(10, levels=1, heads=4), "width is 10.*num_heads, 4"),
        (lambda: MultiScaleDeformableAttention(8, 3, 4, [3, 6]), r"points is \[3, 6\].* 3 levels"),
    ],
)
def test_shapes_that_do_not_fit_are_refused(call, facts):
    with pytest.raises(ValueError, match=facts):
        call()
