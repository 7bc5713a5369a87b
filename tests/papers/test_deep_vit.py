"""DeepViT beside its equations and, without re-attention, timm's ViT."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from densevit_checkpoints.key_mapping import translate
from densevit_papers import deep_vit
from densevit_papers.deep_vit import VARIANTS, ConvEmbedding, DeepViT, ReAttention, Variant
from tests.random_weights import randomise


def reattention_by_hand(layer: ReAttention, x: torch.Tensor, training: bool) -> torch.Tensor:
    """x: (B, N, C). The maps of all heads, their mixture, and a norm of each mixed map."""
    parts = (layer.query, layer.key, layer.value)
    query, key, value = (part(x).unflatten(2, (layer.num_heads, -1)).transpose(1, 2) for part in parts)
    maps = (query @ key.mT / math.sqrt(query.shape[-1])).softmax(-1)  # (B, heads, N, N)
    mixed = torch.einsum("hg,bgnm->bhnm", layer.mixing.weight[:, :, 0, 0], maps) + layer.mixing.bias[:, None, None]
    norm = layer.map_norm
    mean, variance = norm.running_mean.clone(), norm.running_var.clone()
    mixed = F.batch_norm(mixed, mean, variance, norm.weight, norm.bias, training, eps=norm.eps)
    return layer.output((layer.map_scale * mixed @ value).transpose(1, 2).flatten(2))


@pytest.mark.parametrize(("training", "scaled", "scale"), [(False, True, 0.5), (True, False, 1.0)])
def test_re_attention_matches_the_equation(training, scaled, scale):
    layer = ReAttention(12, 3, scaled).double().train(training)
    randomise(layer)
    assert layer.map_scale == scale
    x = torch.randn(2, 7, 12, dtype=torch.float64)
    torch.testing.assert_close(layer(x, x, x), reattention_by_hand(layer, x, training))


def test_convolutional_embedding_matches_the_formulation():
    layer = ConvEmbedding(12, 16).double().eval()
    randomise(layer)
    images = torch.randn(2, 3, 32, 48, dtype=torch.float64)

    def norm(layer: nn.BatchNorm2d, x: torch.Tensor) -> torch.Tensor:
        return F.batch_norm(x, layer.running_mean, layer.running_var, layer.weight, layer.bias, eps=1e-5)

    x = norm(layer.norm1, F.conv2d(images, layer.conv1.weight, stride=2, padding=3)).relu()
    x = norm(layer.norm2, F.conv2d(x, layer.conv2.weight, padding=1)).relu()  # (B, 64, 16, 24)
    torch.testing.assert_close(layer(images), F.conv2d(x, layer.projection.weight, layer.projection.bias, stride=8))


@pytest.mark.parametrize(("readout", "size"), [("ignore", (48, 48)), ("add", (97, 70)), ("project", (97, 70))])
def test_without_re_attention_features_match_timm(variant, size, readout):
    """The frame shared with LocalViT: patches, padding, class token, positions at other sizes, the norm, readouts."""
    from timm.models.vision_transformer import VisionTransformer

    sizes = {"embed_dim": 24, "depth": 4, "num_heads": 3, "mlp_ratio": 3, "num_classes": 0}
    theirs = VisionTransformer(48, 16, **sizes, dynamic_img_size=True, dynamic_img_pad=True).eval()
    randomise(theirs)
    variant(VARIANTS, "nano", Variant(24, 4, 3, 0, False, False, 1.0))
    ours = DeepViT("nano", image_size=48, features=(2, 4), readout=readout).eval()
    randomise(ours)
    missing, unexpected = ours.load_state_dict(translate(theirs.state_dict(), deep_vit.AUTHORS).tensors, strict=False)
    assert unexpected == [] and all(key.startswith("readouts.") for key in missing)
    images = torch.randn(2, 3, *size)
    found = ours(images)
    expected = theirs.forward_intermediates(
        images, [1, 3], return_prefix_tokens=True, norm=True, intermediates_only=True
    )
    for i, (x, (maps, token)) in enumerate(zip(found, expected, strict=True)):
        if readout == "add":
            maps = maps + token.transpose(1, 2)[..., None]
        elif readout == "project":
            both = torch.cat([maps, token.transpose(1, 2)[..., None].expand_as(maps)], dim=1)
            maps = F.gelu(ours.readouts[i](both.permute(0, 2, 3, 1))).permute(0, 3, 1, 2)
        assert x.shape[2:] == tuple(-(-side // 16) for side in size) and maps.abs().mean() > 0.1
        torch.testing.assert_close(x, maps, atol=1e-4, rtol=1e-4)
