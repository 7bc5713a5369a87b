"""S2-MLP beside a reference of the paper's equations."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from densevit_papers.s2_mlp import S2Mlp
from tests.gradient_comparison import assert_same_with_gradients
from tests.random_weights import randomise


def by_convolution(x: Tensor) -> Tensor:
    """The shift of (B, C, H, W) as the depthwise convolution of section 3.3, with the border repeated outside.

    Section 3.3 does not state the padding; with this one it equals equation 3.
    """
    C = x.shape[1]
    kernels = torch.zeros(4, C // 4, 1, 3, 3, dtype=x.dtype)
    for group, (i, j) in enumerate([(1, 0), (1, 2), (0, 1), (2, 1)]):  # reads at the left, the right, above, below
        kernels[group, :, 0, i, j] = 1
    return F.conv2d(F.pad(x, (1, 1, 1, 1), mode="replicate"), kernels.flatten(0, 1), groups=C)


def reference(model: S2Mlp, images: Tensor) -> list[Tensor]:
    """Section 3.2 and figure 1 on unfolded patches, one product after the other: features (B, C, h, w)."""

    def norm(x: Tensor, layer: nn.Module) -> Tensor:
        x = F.layer_norm(x, x.shape[-1:]) if isinstance(layer, nn.LayerNorm) else x
        return x * layer.weight + layer.bias

    p = model.patch_size
    h, w = (-(-side // p) for side in images.shape[2:])
    padded = F.pad(images, (0, w * p - images.shape[3], 0, h * p - images.shape[2]))
    patches = padded.unflatten(2, (h, p)).unflatten(4, (w, p)).permute(0, 2, 4, 1, 3, 5).flatten(3)  # (B, h, w, 3 p p)
    x = norm(patches @ model.projection.weight.flatten(1).T + model.projection.bias, model.norm)
    features = []
    for i, block in enumerate(model.blocks):
        y = F.gelu(x @ block.before_shift.weight.T + block.before_shift.bias)
        y = by_convolution(y.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        x = x + norm(y @ block.after_shift.weight.T + block.after_shift.bias, block.shift_norm)
        y = F.gelu(x @ block.expand.weight.T + block.expand.bias)
        x = x + norm(y @ block.contract.weight.T + block.contract.bias, block.mlp_norm)
        if i + 1 in model.feature_blocks:
            features.append(x.permute(0, 3, 1, 2))
    return features


@pytest.mark.parametrize("variant", ["nano", "deep"])  # with layer norms and with affine transformations
def test_features_and_gradients_match_the_equations(variant: str) -> None:
    model = randomise(S2Mlp(variant, patch_size=4, features=(1, 3))).double().eval()
    images = torch.randn(2, 3, 17, 22, dtype=torch.float64)
    found = model(images)
    assert [x.shape[2:] for x in found] == [(5, 6)] * 2
    assert_same_with_gradients(found, reference(model, images), model.parameters(), tolerance=1e-9, of_gradients=1e-7)
