"""MViT's positions and windows."""

import torch

from densevit_backbones.mvit import MViT


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
