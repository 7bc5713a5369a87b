"""MViT's cost beside the papers', its positions and windows."""

import pytest
import torch
from torch import nn

from densevit_backbones.mvit import MViT
from tests.backbones.references import multiply_adds, parameters


# MViTv2: Li et al. 2022, table 1. MViTv1: Fan et al. 2021, table 8; B-24-wide with images of 320 pixels.
# The multiply-adds of version 2's large are 43.7 G here (timm's count is 43.9), 4 % above the paper's 42.1.
@pytest.mark.parametrize(
    ("version", "variant", "size", "published", "gmacs"),
    [
        (2, "tiny", 224, 24.17, 4.7),
        (2, "small", 224, 34.87, 7.0),
        (2, "base", 224, 51.47, 10.2),
        (2, "large", 224, 218, 43.7),
        (1, "base", 224, 37.0, 7.8),
        (1, "large", 320, 72.9, 32.7),
    ],
)
def test_parameters_and_multiply_adds_match_the_paper(version, variant, size, published, gmacs):
    with torch.device("meta"):
        mvit = MViT(variant, version, image_size=size)
        C = mvit.channels[-1]
        classifier = nn.Sequential(nn.LayerNorm(C), nn.Linear(C, 1000))  # instead of our feature norms
    total = parameters(mvit, classifier) - parameters(mvit.feature_norms)
    assert total / 1e6 == pytest.approx(published, rel=0.002)
    assert (multiply_adds(mvit, size) + 1000 * C) / 1e9 == pytest.approx(gmacs, rel=0.015)


def test_absolute_positions_are_interpolated_bilinearly():
    mvit = MViT("nano", version=1, image_size=8)  # 2 x 2 cells
    mvit.positions.cells.data = torch.tensor([[0.0, 1.0], [10.0, 11.0]]).expand(1, 32, 2, 2).clone()
    between = mvit.positions(2, 4)[0, 1:, 0].view(2, 4)
    assert between.tolist() == [[0, 0.25, 0.75, 1], [10, 10.25, 10.75, 11]]
    assert torch.equal(mvit.positions(2, 2)[0, 0], mvit.positions.token[0, 0])


def test_training_size_sets_table_sizes_only():
    small, large = MViT("nano", image_size=128), MViT("nano", image_size=224)
    shapes = [{k: v.shape for k, v in x.state_dict().items() if "relative" not in k} for x in (small, large)]
    assert shapes[0] == shapes[1]
    key = "stages.0.0.attention.relative_positions.rows"  # queries of stride 4
    assert [len(x.state_dict()[key]) for x in (small, large)] == [2 * 32 - 1, 2 * 56 - 1]


@torch.no_grad()
def test_windows_are_halved_by_stage_and_absent_from_the_last_blocks():
    mvit = MViT("tiny", window_size=56, coarse_global_keys=True)
    found = [[block.attention.windows for block in stage] for stage in mvit.stages]
    assert found == [  # of queries and of keys; a stage's first block pools the queries of the finer map
        [(56, 14)],
        [(28, 28), None],
        [(14, 28), (14, 14), (14, 14), (14, 14), None],
        [(7, 14), None],
    ]
    strides = [[block.attention.pool_key.stride for block in stage] for stage in mvit.stages]
    assert strides == [[4], [2, 4], [1, 1, 1, 1, 2], [1, 1]]
