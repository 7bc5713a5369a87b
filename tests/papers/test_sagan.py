"""SAGAN's self-attention block beside equations 1 to 3 of Zhang et al. 2019."""

import pytest
import torch
from torch.nn import functional as F

from densevit_papers.sagan import SelfAttentionBlock
from tests.papers.small_models import randomise


def block_by_hand(block: SelfAttentionBlock, x: torch.Tensor) -> torch.Tensor:
    """One image (C, H, W), one query j at a time: o_j = v(sum_i beta_ji h(x_i)), y_j = gamma o_j + x_j."""
    C, H, W = x.shape
    f, h = (torch.einsum("dc,chw->dhw", layer.weight[:, :, 0, 0], x) for layer in (block.key, block.value))
    if block.pooling:  # over 2 x 2 cells; those at the right and bottom may be incomplete
        f, h = (F.max_pool2d(y, 2, ceil_mode=True) for y in (f, h))
    f, h, results = f.flatten(1), h.flatten(1), []
    for cell in x.flatten(1).T:
        scores = f.T @ (block.query.weight[:, :, 0, 0] @ cell)
        beta = scores.exp() / scores.exp().sum()
        results.append(block.gamma * (block.output.weight[:, :, 0, 0] @ (h @ beta)) + cell)
    return torch.stack(results, dim=1).view(C, H, W)


@pytest.mark.parametrize(("pooling", "reduction", "size"), [(True, 2, (4, 6)), (True, 8, (5, 3)), (False, 8, (3, 4))])
def test_block_matches_the_equations(pooling, reduction, size):
    block = SelfAttentionBlock(16, pooling, reduction).double()
    randomise(block)
    x = torch.randn(2, 16, *size, dtype=torch.float64)
    for image, found in zip(x, block(x), strict=True):
        torch.testing.assert_close(found, block_by_hand(block, image))


def test_block_is_an_identity_at_first_and_gamma_has_a_gradient():
    block, x = SelfAttentionBlock(16), torch.randn(2, 16, 5, 6)
    y = block(x)
    assert torch.equal(y, x)
    (y * torch.randn_like(y)).sum().backward()
    assert block.gamma.grad.abs() > 0
