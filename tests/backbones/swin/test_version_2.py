import math
import re

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from densevit_backbones.swin import Swin
from densevit_backbones.swin.attention import CosineWindowAttention

# Their parameter names and ours, one pattern for both.
RENAMED = [
    (r"^features\.0\.0\.|^patch_embed\.proj\.", "patch_embed."),
    (r"^features\.0\.2\.|^patch_embed\.norm\.", "patch_norm."),
    (r"^features\.([246])\.", lambda m: f"stages.{int(m[1]) // 2}.0."),
    (r"^features\.1\.(\d+)\.|^layers\.0\.blocks\.(\d+)\.", lambda m: f"stages.0.{m[1] or m[2]}."),
    (r"^features\.([357])\.(\d+)\.", lambda m: f"stages.{int(m[1]) // 2}.{int(m[2]) + 1}."),
    (r"^layers\.(\d)\.downsample\.", r"stages.\1.0."),
    (r"^layers\.(\d)\.blocks\.(\d+)\.", lambda m: f"stages.{m[1]}.{int(m[2]) + 1}."),
    (r"\.mlp\.(0|fc1)\.", ".mlp.expand."),
    (r"\.mlp\.(3|fc2)\.", ".mlp.contract."),
    (r"\.attn\.proj\.", ".attention.output."),
    (r"\.attn\.cpb_mlp\.", ".attention.position_mlp."),
    (r"\.attn\.q_bias", ".attention.query_bias"),
    (r"\.attn\.v_bias", ".attention.value_bias"),
    (r"\.attn\.", ".attention."),
]


def load(swin: Swin, reference: nn.Module) -> None:
    """Loads all weights of the reference except its classifier's; every tensor of ours must be set."""
    given = {}
    for key, value in reference.state_dict().items():
        if key.startswith(("norm.", "head.")) or key.endswith(("relative_position_index", "relative_coords_table")):
            continue
        for pattern, replacement in RENAMED:
            key = re.sub(pattern, replacement, key)
        if key.endswith("qkv.bias"):  # torchvision zeroes the key bias in the forward pass
            given[key.replace("qkv.bias", "query_bias")], _, given[key.replace("qkv.bias", "value_bias")] = value.chunk(
                3
            )
        else:
            given[key] = value
    state = swin.state_dict()
    assert given.keys() == {key for key in state if not key.startswith("feature_norms.")}
    swin.load_state_dict({**state, **given})


def prepare(randomise, swin: Swin, reference: nn.Module) -> None:
    for module in (swin, reference):
        randomise(module.eval())
        for name, parameter in module.named_parameters():
            if name.endswith("logit_scale"):  # some above the limit of ln 100
                nn.init.uniform_(parameter, 1.0, 2.5)
                parameter.data[2:3] = 5.0
    load(swin, reference)


def normed(swin: Swin, features: list[Tensor]) -> list[Tensor]:
    pairs = [(x.permute(0, 2, 3, 1), norm) for x, norm in zip(features, swin.feature_norms, strict=True)]
    return [F.layer_norm(x, x.shape[-1:], norm.weight, norm.bias).permute(0, 3, 1, 2) for x, norm in pairs]


def torchvision_features(reference: nn.Module, images: Tensor) -> list[Tensor]:
    x = F.pad(images, (0, -images.shape[3] % 4, 0, -images.shape[2] % 4))
    features = []
    for i, layer in enumerate(reference.features):
        x = layer(x)
        if i % 2:
            features.append(x.permute(0, 3, 1, 2))
    return features


@pytest.mark.parametrize(("window", "size"), [(8, (97, 131)), (8, (1, 9)), (16, (75, 210)), (4, (64, 64))], ids=str)
def test_nano_matches_torchvision_at_any_size(window, size, randomise, assert_equal_features):
    from torchvision.models.swin_transformer import PatchMergingV2, SwinTransformerBlockV2
    from torchvision.models.swin_transformer import SwinTransformer as TorchvisionSwin

    parts = {"block": SwinTransformerBlockV2, "downsample_layer": PatchMergingV2}
    reference = TorchvisionSwin([4, 4], 32, [1, 1, 3, 1], [1, 2, 4, 8], [window, window], **parts)
    swin = Swin("nano", version=2, window_size=window)
    prepare(randomise, swin, reference)
    assert_equal_features(
        swin, lambda images: normed(swin, torchvision_features(reference, images)), torch.randn(2, 3, *size)
    )


@pytest.mark.integration
def test_tiny_matches_torchvision(randomise, assert_equal_features):
    from torchvision.models.swin_transformer import swin_v2_t

    reference, swin = swin_v2_t(), Swin("tiny", version=2)
    prepare(randomise, swin, reference)
    assert_equal_features(
        swin, lambda images: normed(swin, torchvision_features(reference, images)), torch.randn(1, 3, 70, 101)
    )


@pytest.mark.integration
def test_tiny_matches_timm(randomise, assert_equal_features):
    import timm

    reference, swin = timm.create_model("swinv2_tiny_window8_256", pretrained=False), Swin("tiny", version=2)
    prepare(randomise, swin, reference)
    assert_equal_features(
        swin,
        lambda images: normed(swin, reference.forward_intermediates(images, intermediates_only=True)),
        torch.randn(1, 3, 256, 256),
    )


# timm's windows shrink to smaller maps: at 256 pixels the last window of 16 becomes 8.
@pytest.mark.integration
def test_windows_transferred_from_12_to_16_match_timm(randomise, assert_equal_features):
    from timm.models.swin_transformer_v2 import SwinTransformerV2

    sizes = {"pretrained_window_sizes": (12, 12, 12, 6)}
    reference = SwinTransformerV2(
        (256, 512), embed_dim=32, depths=(1, 1, 3, 1), num_heads=(1, 2, 4, 8), window_size=[16, 16, 16, 8], **sizes
    )
    swin = Swin("nano", version=2, window_size=(16, 16, 16, 8), **sizes)
    prepare(randomise, swin, reference)
    assert_equal_features(
        swin,
        lambda images: normed(swin, reference.forward_intermediates(images, intermediates_only=True)),
        torch.randn(1, 3, 256, 512),
    )


@pytest.mark.parametrize("variant", ["tiny", "small", "base"])
def test_all_variants_have_timm_s_tensors(variant):
    import timm

    with torch.device("meta"):
        load(Swin(variant, version=2), timm.create_model(f"swinv2_{variant}_window8_256", pretrained=False))


def test_every_parameter_has_a_gradient_and_one_depth():
    swin = Swin("nano", version=2)
    sum(x.square().sum() for x in swin(torch.randn(2, 3, 70, 40))).backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in swin.parameters())
    grouped = [id(p) for group in swin.parameter_depths() for p in group]
    assert sorted(grouped) == sorted(id(p) for p in swin.parameters())


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
