import re

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from densevit.errors import WeightsError
from densevit.weights.key_mapping import describe, translate, translate_back
from densevit.weights.layouts import find

pytestmark = pytest.mark.integration


@pytest.mark.parametrize(
    ("name", "layout", "expected"),
    [
        ("swin_tiny_patch4_window7_224", "timm-swin", ("tiny", 7)),
        ("swin_small_patch4_window7_224", "timm-swin", ("small", 7)),
        ("swin_base_patch4_window12_384", "timm-swin", ("base", 12)),
        ("swin_large_patch4_window7_224", "timm-swin", ("large", 7)),
        ("swinv2_tiny_window8_256", "timm-swinv2", ("tiny", None)),
        ("swinv2_small_window16_256", "timm-swinv2", ("small", None)),
        ("swinv2_base_window12to24_192to384", "timm-swinv2", ("base", None)),
        ("swinv2_large_window12_192", "timm-swinv2", ("large", None)),
        ("swin_t", "torchvision-swin", ("tiny", 7)),
        ("swin_s", "torchvision-swin", ("small", 7)),
        ("swin_b", "torchvision-swin", ("base", 7)),
        ("swin_v2_t", "torchvision-swinv2", ("tiny", 8)),
        ("swin_v2_s", "torchvision-swinv2", ("small", 8)),
        ("swin_v2_b", "torchvision-swinv2", ("base", 8)),
    ],
)
def test_all_variants_are_translated_completely(name, layout, expected, loaded):
    import timm
    import torchvision

    with torch.device("meta"):
        make = torchvision.models.get_model if layout.startswith("torchvision") else timm.create_model
        state = make(name).state_dict()
    loaded(state, layout)
    variant, window = expected
    section = {"name": "swin", "variant": variant, "version": 2 if "v2" in layout else 1, "shift": "per_axis"}
    section |= {"window_size": window} if window else {}  # of timm's version 2 the checkpoint does not determine it
    assert describe(state, find(layout)) == {"backbone": section}


def through_norms(swin: nn.Module, features: list[Tensor]) -> list[Tensor]:
    """Maps (B, C, H, W) after our norms, the last of which is the reference's own."""
    pairs = [(x.permute(0, 2, 3, 1), norm) for x, norm in zip(features, swin.feature_norms, strict=True)]
    return [F.layer_norm(x, x.shape[-1:], norm.weight, norm.bias).permute(0, 3, 1, 2) for x, norm in pairs]


def torchvision_features(reference: nn.Module, images: Tensor) -> list[Tensor]:
    x, features = F.pad(images, (0, -images.shape[3] % 4, 0, -images.shape[2] % 4)), []
    for i, layer in enumerate(reference.features):
        x = layer(x)
        features += [x.permute(0, 3, 1, 2)] if i % 2 else []
    return features


def timm_features(reference: nn.Module, images: Tensor) -> list[Tensor]:
    return reference.forward_intermediates(images, intermediates_only=True)


NANO = {"depths": (1, 1, 3, 1), "num_heads": (1, 2, 4, 8), "embed_dim": 32}
OF_TORCHVISION = {"depths": [1, 1, 3, 1], "num_heads": [1, 2, 4, 8], "embed_dim": 32, "patch_size": [4, 4]}


def nano_of_timm(version: int) -> nn.Module:
    """timm's model with the widths and depths of our nano."""
    from timm.models.swin_transformer import SwinTransformer
    from timm.models.swin_transformer_v2 import SwinTransformerV2

    return (SwinTransformer if version == 1 else SwinTransformerV2)((64, 128), window_size=2, **NANO)


def nano_of_torchvision(version: int) -> nn.Module:
    """torchvision's model with the widths and depths of our nano."""
    from torchvision.models.swin_transformer import PatchMergingV2, SwinTransformer, SwinTransformerBlockV2

    if version == 1:
        return SwinTransformer(**OF_TORCHVISION, window_size=[4, 4])
    parts = {"block": SwinTransformerBlockV2, "downsample_layer": PatchMergingV2}
    return SwinTransformer(**OF_TORCHVISION, window_size=[5, 5], **parts)


@pytest.mark.parity("torchvision-swin", "torchvision-swinv2", "timm-swin", "timm-swinv2")
@pytest.mark.parametrize(
    ("layout", "make", "version", "options", "size"),
    [
        ("torchvision-swin", nano_of_torchvision, 1, {}, (53, 98)),
        ("torchvision-swinv2", nano_of_torchvision, 2, {}, (53, 98)),
        ("timm-swin", nano_of_timm, 1, {}, (64, 128)),
        ("timm-swinv2", nano_of_timm, 2, {"window_size": 2}, (64, 128)),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_features_match_the_references_and_round_trip(layout, make, version, options, size, loaded, randomise):
    reference = randomise(make(version))
    state = reference.state_dict()
    swin = loaded(state, layout, **options)
    for norm in swin.feature_norms[:3]:
        randomise(norm)
    features = torchvision_features if layout.startswith("torchvision") else timm_features
    images = torch.randn(2, 3, *size)
    with torch.no_grad():
        raw, found = features(reference, images), swin(images)
        for x, y in zip(found, through_norms(swin, raw), strict=True):
            torch.testing.assert_close(x, y, atol=1e-4, rtol=1e-4)
        last = reference.norm(raw[-1].permute(0, 2, 3, 1)).permute(0, 3, 1, 2)  # the classifier's input before pooling
        torch.testing.assert_close(found[-1], last, atol=1e-4, rtol=1e-4)
    back, unknown = translate_back(swin.state_dict(), find(layout))
    constant = ("relative_position_index", "relative_coords_table")
    assert unknown == []
    assert back.keys() == {key for key in state if not key.startswith("head.") and not key.endswith(constant)}
    for key in back:
        expected = state[key].clone()
        if layout == "torchvision-swinv2" and key.endswith("qkv.bias"):  # the key bias has no effect there
            expected.view(3, -1)[1] = 0
        assert torch.equal(back[key], expected)
    reference.load_state_dict({**state, **back})
    with torch.no_grad():
        assert all(torch.equal(x, y) for x, y in zip(features(reference, images), raw, strict=True))


@pytest.mark.parametrize(
    ("release", "layout", "model"),
    [
        ("swin_tiny_patch4_window7_224", "microsoft-swin", "swin_tiny_patch4_window7_224"),
        (
            "swinv2_base_patch4_window12to16_192to256_22kto1k_ft",
            "microsoft-swinv2",
            "swinv2_base_window12to16_192to256",
        ),
    ],
    ids=["swin", "swinv2"],
)
def test_microsoft_releases_are_translated_as_in_timm(release, layout, model, released, loaded):
    import timm
    from timm.models import swin_transformer, swin_transformer_v2

    state = released(release)
    with torch.device("meta"):
        reference = timm.create_model(model, pretrained=False)
    if layout.endswith("v2"):  # the only buffer that is not random, to make windows visible
        for key in state:
            if key.endswith("relative_coords_table"):
                window, pretrained = [(16, 12), (16, 12), (16, 12), (8, 6)][int(key.split(".")[1])]
                steps = 8 * torch.arange(1 - window, window) / (pretrained - 1)
                steps = steps.sign() * torch.log2(steps.abs() + 1) / 3
                state[key] = torch.stack(torch.meshgrid(steps, steps, indexing="ij"), -1)[None]
    swin = loaded(state, layout)
    own = describe(state, find(layout))["backbone"]
    if layout.endswith("v2"):
        assert own["window_size"] == (16, 16, 16, 8) and own["pretrained_window_sizes"] == (12, 12, 12, 6)
        windows = [stage[-1].attention.window for stage in swin.stages]
        assert windows == [16, 16, 16, 8]
    else:
        assert own == {"name": "swin", "variant": "tiny", "version": 1, "shift": "both_axes", "window_size": 7}
    left_out = translate(state, find(layout)).left_out
    buffers = {key for key in state if re.search(r"attn_mask|relative_position_index|relative_coords_table", key)}
    assert left_out.keys() == buffers | {"head.weight", "head.bias"}
    module = swin_transformer_v2 if layout.endswith("v2") else swin_transformer
    as_timm = module.checkpoint_filter_fn(state, reference)
    expected = translate(as_timm, find(layout.replace("microsoft", "timm"))).tensors
    for key, tensor in swin.state_dict().items():
        if not key.startswith(("feature_norms.0", "feature_norms.1", "feature_norms.2")):
            assert torch.equal(tensor, expected[key])


def test_unknown_swin_variant_is_described_and_refused():
    import timm

    with torch.device("meta"):
        state = timm.create_model("swin_s3_tiny_224", pretrained=False, depths=(2, 2, 4, 2)).state_dict()
    with pytest.raises(WeightsError, match=r"96 channels and \(2, 2, 4, 2\) blocks .* tiny"):
        describe(state, find("timm-swin"))
