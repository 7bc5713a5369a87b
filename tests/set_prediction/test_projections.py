"""Projections to one map: the coarsest, or the sum of levels with a residual convolution."""

import torch
from torch import nn

from densevit.set_prediction.projections import CoarsestProjection, ConvolutionBlock, FusedProjection

FEATURES = [
    torch.full((1, 1, 4, 8), 100.0),
    torch.tensor([[[[1.0, 2, 3, 4], [0, 0, 0, 0]]]]),
    torch.tensor([[[[10.0, 20]]]]),
]


def test_the_coarsest_map_is_projected():
    projection = CoarsestProjection((1, 1, 1), (4, 8, 16), 2)
    projection.project.load_state_dict({"weight": torch.tensor([1.0, 2.0]).view(2, 1, 1, 1), "bias": torch.ones(2)})
    assert projection.stride == 16 and projection(FEATURES).flatten().tolist() == [11, 21, 21, 41]


def test_levels_are_upsampled_to_the_finest_of_the_stride_and_mixed():
    projection = FusedProjection((1, 1, 1), (4, 8, 16), 1, stride=8, blocks=1)
    projection.project = nn.ModuleList([nn.Identity(), nn.Identity()])  # the norm of one channel is constant
    projection.mix, norm = nn.Identity(), projection.blocks[0].convolutions[-1]
    norm.load_state_dict({"weight": torch.zeros(1), "bias": torch.tensor([-25.0])}, strict=False)
    assert projection.stride == 8 and isinstance(projection.blocks[0], ConvolutionBlock)
    # relu(2 * (fine + coarse) - 25), of the coarse values 10, 12.5, 17.5 and 20
    assert projection(FEATURES).tolist() == [[[[0, 4, 16, 23], [0, 0, 10, 15]]]]
