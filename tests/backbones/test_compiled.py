"""torch.compile with its C++ compiler: features and gradients of each family match eager mode."""

import pytest
import torch

import densevit

FAMILIES = [
    ("vit", {"variant": "nano", "patch_size": 16, "features": (1, 2)}),
    ("swin", {"variant": "nano", "window_size": 4}),
    ("swin", {"variant": "nano", "window_size": 4, "version": 2}),
    ("mvit", {"variant": "nano"}),
    ("resnet", {"depth": 18}),
]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "options"), FAMILIES, ids=str)
def test_compiled_backbone_matches_eager(name, options):
    backbone = densevit.create_backbone(name, **options).eval()
    compiled = torch.compile(backbone, fullgraph=True)
    found, expected = (torch.randn(2, 3, 67, 90).requires_grad_() for _ in range(2))
    expected.data.copy_(found.data)
    for x, y in zip(compiled(found), backbone(expected), strict=True):
        torch.testing.assert_close(x, y, atol=1e-4, rtol=1e-4)
        weight = torch.randn_like(x)
        (x * weight).mean().backward(retain_graph=True)
        (y * weight).mean().backward(retain_graph=True)
    scale = 1 / expected.grad.abs().max()
    torch.testing.assert_close(found.grad * scale, expected.grad * scale, atol=1e-3, rtol=1e-3)
