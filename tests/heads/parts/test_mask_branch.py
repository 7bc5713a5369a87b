"""The mask branch: its bias, and per-pixel features of each block."""

import torch

from densevit.set_prediction.queries import mask_logits
from densevit_heads.parts.mask_branch import MaskBranch


def test_logits_are_products_of_projections_plus_the_bias():
    branch = MaskBranch(4, 2)
    branch.bias.data.fill_(0.7)
    x, queries = torch.randn(1, 4, 2, 3), torch.randn(3, 1, 5, 4)
    embeddings, pixels = branch(x, (4, 6), queries)
    assert embeddings.shape == (3, 1, 5, 5) and [p.shape for p in pixels] == [(1, 5, 4, 6)] * 3
    enlarged = torch.nn.functional.interpolate(x, size=(4, 6), mode="bilinear", align_corners=False)
    refined = branch.query_project(queries[0] + branch.query_ffn(branch.query_norm(queries[0])))
    expected = torch.einsum("bqc,bchw->bqhw", refined, branch.pixel_project(enlarged)) + 0.7
    torch.testing.assert_close(mask_logits(embeddings[0], pixels[0]), expected)
    once = branch.blocks[0](enlarged)
    torch.testing.assert_close(pixels[1][:, :4], branch.pixel_project(once))
    torch.testing.assert_close(pixels[2][:, :4], branch.pixel_project(branch.blocks[1](once)))
