import pytest
import torch

from densevit.errors import WeightsError
from densevit.weights.key_mapping import describe, translate, translate_back
from densevit.weights.layouts import find

pytestmark = pytest.mark.integration


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("vit_tiny_patch16_224", {"variant": "tiny"}),
        ("vit_small_patch32_384", {"variant": "small", "patch_size": 32, "image_size": 384}),
        ("vit_base_patch8_224", {"variant": "base", "patch_size": 8}),
        ("vit_base_patch16_384", {"variant": "base", "image_size": 384}),
        ("vit_large_patch16_224", {"variant": "large"}),
        ("vit_huge_patch14_224", {"variant": "huge", "patch_size": 14}),
        ("vit_base_patch16_gap_224", {"variant": "base", "class_token": False}),
        ("vit_base_r50_s16_384", {"variant": "base", "stem": "resnet", "image_size": 384}),
        ("deit_tiny_patch16_224", {"variant": "tiny"}),
        ("deit_small_distilled_patch16_224", {"variant": "small", "distillation_token": True}),
        ("deit_base_distilled_patch16_384", {"variant": "base", "distillation_token": True, "image_size": 384}),
        ("deit3_large_patch16_384", {"variant": "large", "layer_scale": 1e-5, "image_size": 384}),
        ("vit_base_patch14_dinov2", {"variant": "base", "patch_size": 14, "layer_scale": 1e-5, "image_size": 518}),
        (
            "vit_giant_patch14_reg4_dinov2",
            {
                "variant": "giant",
                "patch_size": 14,
                "layer_scale": 1e-5,
                "image_size": 518,
                "registers": 4,
                "swiglu": True,
            },
        ),
    ],
)
def test_all_vits_are_translated_completely(name, expected, loaded):
    import timm

    with torch.device("meta"):
        state = timm.create_model(name, pretrained=False).state_dict()
    loaded(state, "timm-vit")
    section = {"name": "vit", "patch_size": 16, "image_size": 224, **expected}
    assert describe(state, find("timm-vit")) == {"backbone": section}


@pytest.mark.parametrize(
    ("name", "depth"), [("resnet18d", 18), ("resnet50d", 50), ("resnet152d", 152), ("resnet34", 34), ("resnet50", 50)]
)
def test_all_resnets_are_translated_completely(name, depth, loaded):
    import timm

    with torch.device("meta"):
        state = timm.create_model(name, pretrained=False).state_dict()
    own = {"variant": "d"} if name.endswith("d") else {}
    loaded(state, "timm-resnet", recognised="" if own else "torchvision-resnet")
    assert describe(state, find("timm-resnet")) == {"backbone": {"name": "resnet", "depth": depth, **own}}


SMALL = {"depth": 3, "dynamic_img_size": True, "dynamic_img_pad": True}
MEAN = {"global_pool": "avg", "fc_norm": True}
VITS = {
    "plain": ("timm-vit", "vit_tiny_patch16_224", SMALL),
    "all at once": ("timm-vit", "vit_tiny_patch16_224", {**SMALL, "qk_norm": True, "init_values": 0.1}),
    "distilled": ("timm-vit", "deit_tiny_distilled_patch16_224", SMALL),
    "registers": ("timm-vit", "vit_small_patch14_reg4_dinov2", {**SMALL, "img_size": 98}),
    "for the mean of all cells": ("timm-vit", "vit_tiny_patch16_224", {**SMALL, "class_token": False, **MEAN}),
    "without positions": ("timm-vit", "vit_tiny_patch16_224", {**SMALL, "pos_embed": "none"}),
    "DeiT III": ("timm-deit3", "deit3_small_patch16_224", SMALL),
}


@pytest.mark.parity("timm-vit", "timm-deit3")
@pytest.mark.parametrize(("layout", "name", "options"), VITS.values(), ids=VITS)
def test_vit_features_match_timm_and_round_trip(layout, name, options, loaded, randomise):
    import timm

    reference, again = (timm.create_model(name, pretrained=False, num_classes=7, **options).eval() for _ in range(2))
    state = randomise(reference).state_dict()
    vit = loaded(state, layout, recognised="timm-vit")
    images = torch.randn(2, 3, 71, 115)

    def features(model):
        indices = [block - 1 for block in vit.feature_blocks]
        return model.forward_intermediates(images, indices=indices, norm=vit.norm is not None, intermediates_only=True)

    with torch.no_grad():
        expected = features(reference)
        for x, y in zip(vit(images), expected, strict=True):
            torch.testing.assert_close(x, y, atol=1e-4, rtol=1e-4)
    back, unknown = translate_back(vit.state_dict(), find(layout))
    heads = {key for key in state if key.startswith(("head", "fc_norm"))}
    assert unknown == [] and back.keys() == state.keys() - heads
    own = again.state_dict()
    again.load_state_dict({**own, **back})
    with torch.no_grad():
        assert all(torch.equal(x, y) for x, y in zip(features(again), expected, strict=True))
    changed = {key for key in back if not torch.equal(back[key], state[key])}
    if "pos_embed" in state and state["pos_embed"].shape[1] in (197, 198):  # a token includes its position here
        assert changed == {key for key in ("cls_token", "dist_token", "pos_embed") if key in state}
    else:
        assert changed == set()
    twice = translate(back, find(layout)).tensors
    assert all(torch.equal(twice[key], x) for key, x in vit.state_dict().items())


def test_hybrid_features_match_timm_and_round_trip(loaded, randomise):
    import timm

    reference = timm.create_model("vit_base_r50_s16_384", pretrained=False, depth=1, dynamic_img_size=True)
    randomise(reference)
    for name, weight in reference.named_parameters():
        if name.endswith("norm3.weight"):  # residual branches as small as trained ones; otherwise rounding errors grow
            weight.data *= 0.2
    state = reference.state_dict()
    vit = loaded(state, "timm-vit")
    images = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        stem, late = reference.patch_embed.backbone, reference.forward_features(images)
        early = [stage := stem.stages[0](stem.stem(images)), stem.stages[1](stage)]
        expected = [*early, late[:, 1:].transpose(1, 2).unflatten(2, (4, 6))]
        for x, y in zip(vit(images), expected, strict=True):
            torch.testing.assert_close(x, y, atol=1e-4, rtol=1e-4)
    back, unknown = translate_back(vit.state_dict(), find("timm-vit"))
    assert unknown == [] and back.keys() == state.keys() - {"head.weight", "head.bias"}
    assert {key for key in back if not torch.equal(back[key], state[key])} == {"cls_token", "pos_embed"}


def test_deit_iii_release_renames_layer_scales(loaded, randomise):
    import timm

    state = randomise(timm.create_model("deit3_small_patch16_224", pretrained=False, depth=2)).state_dict()
    release = {key.replace("ls1.gamma", "gamma_1").replace("ls2.gamma", "gamma_2"): x for key, x in state.items()}
    assert release.keys() != state.keys()
    of_release, of_timm = (loaded(x, "timm-vit").state_dict() for x in (release, state))
    assert all(torch.equal(of_release[key], of_timm[key]) for key in of_timm)


@pytest.mark.parity("timm-resnet")
def test_resnet_d_features_match_timm_and_round_trip(loaded, randomise):
    import timm

    reference = randomise(timm.create_model("resnet18d", pretrained=False))
    state = reference.state_dict()
    resnet = loaded(state, "timm-resnet")
    images = torch.randn(2, 3, 67, 90)
    with torch.no_grad():
        expected = reference.forward_intermediates(images, indices=[1, 2, 3, 4], intermediates_only=True)
        for x, y in zip(resnet(images), expected, strict=True):
            torch.testing.assert_close(x, y, atol=1e-4, rtol=1e-4)
    back, unknown = translate_back(resnet.state_dict(), find("timm-resnet"))
    assert unknown == [] and back.keys() == state.keys() - {"fc.weight", "fc.bias"}
    assert all(torch.equal(back[key], state[key]) for key in back)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("vit_small_r26_s32_224", "the first three stages of a ResNet-50"),
        ("deit3_medium_patch16_224", "512 channels and 12 blocks"),
        ("vit_small_patch16_18x2_224", "384 channels and 0 blocks|is incomplete"),
        ("vit_small_patch16_36x1_224", "384 channels and 36 blocks .* small"),
    ],
)
def test_unsupported_vit_relatives_raise(name, message):
    import timm

    with torch.device("meta"):
        state = timm.create_model(name, pretrained=False).state_dict()
    with pytest.raises(WeightsError, match=message):
        describe(state, find("timm-vit"))


@pytest.mark.parametrize(
    ("name", "unknown"),
    [
        ("vit_tiny_r_s16_p8_224", {"patch_embed.backbone.conv.weight", "patch_embed.backbone.norm.*"}),
        ("vit_base_patch16_clip_224", {"norm_pre.*"}),
        ("vit_base_patch16_siglip_224", {"attn_pool.*"}),
    ],
)
def test_unsupported_vit_parts_are_named(name, unknown):
    import timm

    with torch.device("meta"):
        state = timm.create_model(name, pretrained=False).state_dict()
    found = translate(state, find("timm-vit")).unknown
    assert found and all(any(key.startswith(name.removesuffix("*")) for name in unknown) for key in found)
