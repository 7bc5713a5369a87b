"""Swin and Swin V2 beside torchvision's and timm's, with random weights; shifts."""

import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from densevit_backbones.swin import Swin
from densevit_backbones.swin.attention import CosineWindowAttention
from tests.backbones.references import load, normed
from tests.random_weights import randomise


def prepare(swin: Swin, reference: nn.Module) -> None:
    """Random weights in both; some of the second version's scales of logits are above the limit of ln 100."""
    for module in (swin, reference):
        randomise(module.eval())
        for name, parameter in module.named_parameters():
            if name.endswith("logit_scale"):
                nn.init.uniform_(parameter, 1.0, 2.5)
                parameter.data[2:3] = 5.0
    load(swin, reference.state_dict())


def torchvision_features(reference: nn.Module, images: Tensor) -> list[Tensor]:
    """After each stage. torchvision drops incomplete patches, so the image is padded first."""
    x = F.pad(images, (0, -images.shape[3] % 4, 0, -images.shape[2] % 4))
    features = []
    for i, layer in enumerate(reference.features):
        x = layer(x)
        if i % 2:
            features.append(x.permute(0, 3, 1, 2))
    return features


@pytest.mark.parametrize(
    ("version", "window", "size"),
    [
        (1, 7, (97, 131)),
        (1, 12, (9, 20)),
        (2, 8, (75, 131)),
        (2, 8, (1, 9)),
    ],
    ids=str,
)
def test_features_and_gradients_match_torchvision_at_any_size(version, window, size, assert_equal_features):
    from torchvision.models import swin_transformer as theirs

    parts = {"block": theirs.SwinTransformerBlockV2, "downsample_layer": theirs.PatchMergingV2} if version == 2 else {}
    reference = theirs.SwinTransformer([4, 4], 32, [1, 1, 3, 1], [1, 2, 4, 8], [window, window], **parts)
    swin = Swin("nano", version=version, window_size=window)
    prepare(swin, reference)
    images = torch.randn(2, 3, *size)
    assert_equal_features(swin, lambda x: normed(swin.feature_norms, torchvision_features(reference, x)), images)


# timm's windows shrink to smaller maps: at 256 pixels the last window of 16 becomes 8.
@pytest.mark.integration
def test_windows_transferred_from_12_to_16_match_timm(assert_equal_features):
    from timm.models.swin_transformer_v2 import SwinTransformerV2

    sizes = {"pretrained_window_sizes": (12, 12, 12, 6)}
    reference = SwinTransformerV2(
        (256, 512), embed_dim=32, depths=(1, 1, 3, 1), num_heads=(1, 2, 4, 8), window_size=[16, 16, 16, 8], **sizes
    )
    swin = Swin("nano", version=2, window_size=(16, 16, 16, 8), **sizes)
    prepare(swin, reference)
    images = torch.randn(1, 3, 256, 512)
    assert_equal_features(
        swin, lambda x: normed(swin.feature_norms, reference.forward_intermediates(x, intermediates_only=True)), images
    )


@pytest.mark.parametrize("version", [1, 2])
def test_shifts_differ_only_on_maps_of_one_window(version):
    """The shifted block of "nano" is in its third stage: maps of 7x9, 4x9 and 4x3 cells in windows of 4."""
    swins = [Swin("nano", version, window_size=4, shift=shift).eval() for shift in ("per_axis", "both_axes", "dense")]
    randomise(swins[0])
    for swin in swins[1:]:
        swin.load_state_dict(swins[0].state_dict())
    groups = []
    for size in ((100, 140), (60, 140), (60, 40)):
        images = torch.randn(1, 3, *size)
        with torch.no_grad():
            last = [swin(images)[-1] for swin in swins]
        assert not any(torch.allclose(last[0], x, atol=1e-2) != torch.equal(last[0], x) for x in last[1:])
        groups.append([next(i for i, x in enumerate(last) if torch.equal(x, own)) for own in last])
    assert groups == [[0, 0, 0], [0, 1, 2], [0, 0, 2]]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_large_queries_and_sharp_logits_stay_finite_in_half_precision(dtype):
    attention = CosineWindowAttention(32, 2, 4, True, "per_axis", 4)
    nn.init.constant_(attention.logit_scale, 10.0)
    x = (3e3 * torch.randn(1, 10, 11, 32)).requires_grad_()
    with torch.autocast("cpu", dtype):
        mixed = attention(x)
    mixed.float().mean().backward()
    assert mixed.isfinite().all() and x.grad.isfinite().all()
    assert attention.logit_scale.grad.eq(0).all()  # clamped above ln 100
    assert attention.logit_scale.min() > math.log(100)
