"""Encoders of timm, torchvision and transformers with random weights: ours have their features.

Swins are compared in `test_window_originals.py`.
"""

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from torch.nn import functional as F

from densevit.layouts import find
from densevit_checkpoints.key_mapping import translate_back
from tests.checkpoints.layouts.test_described import R34
from tests.checkpoints.layouts.translations import loaded
from tests.random_weights import randomise

pytestmark = pytest.mark.integration


def compare(found, expected):
    for x, y in zip(found[-len(expected) :], expected, strict=True):
        assert y.abs().mean() > 0.02
        torch.testing.assert_close(x, y, atol=1e-4, rtol=1e-4)


# ---- timm ----

SMALL = {"depth": 3, "dynamic_img_size": True, "dynamic_img_pad": True}
TIMM = {  # layout, model, options
    "all at once": ("timm-vit", "vit_tiny_patch16_224", {**SMALL, "qk_norm": True, "init_values": 0.1}),
    "registers": ("timm-vit", "vit_small_patch14_reg4_dinov2", {**SMALL, "img_size": 98}),
    "DeiT III": ("timm-deit3", "deit3_small_patch16_224", SMALL),
}


@pytest.mark.parity("timm-vit", "timm-deit3")
@pytest.mark.parametrize("name", TIMM)
@torch.no_grad()
def test_features_match_timm(name):
    import timm

    layout, model, options = TIMM[name]
    reference = randomise(timm.create_model(model, pretrained=False, num_classes=7, **options)).eval()
    ours = loaded(reference.state_dict(), layout, recognised="timm-vit" if layout == "timm-deit3" else "")
    images = torch.randn(2, 3, 71, 115)
    given = {"indices": [block - 1 for block in ours.feature_blocks], "norm": ours.norm is not None}
    compare(ours(images), reference.forward_intermediates(images, **given, intermediates_only=True))


@pytest.mark.parity("timm-mvit")
@torch.no_grad()
def test_features_of_mvit_match_timm():
    from timm.models.mvitv2 import MultiScaleVit, MultiScaleVitCfg

    cfg = MultiScaleVitCfg((1, 1, 3, 1), embed_dim=32, use_cls_token=True)
    reference = randomise(MultiScaleVit(cfg, img_size=(96, 96), num_classes=7)).eval()
    mvit, images = loaded(reference.state_dict(), "timm-mvit"), torch.randn(2, 3, 96, 96)
    for norm in mvit.feature_norms[:3]:
        randomise(norm)
    expected = []
    for i, y in enumerate(reference.forward_intermediates(images, intermediates_only=True)):
        norm = mvit.feature_norms[i] if i < 3 else reference.norm
        y = F.layer_norm(y.permute(0, 2, 3, 1), norm.normalized_shape, norm.weight, norm.bias, 1e-6)
        expected.append(y.permute(0, 3, 1, 2))
    compare(mvit(images), expected)


# ---- torchvision ----


@pytest.mark.parity("torchvision-vit")
@torch.no_grad()
def test_features_of_vits_match_torchvision():
    from torchvision.models import VisionTransformer

    reference = randomise(VisionTransformer(48, 16, num_layers=2, num_heads=3, hidden_dim=192, mlp_dim=768)).eval()
    state, images = reference.state_dict(), torch.randn(2, 3, 48, 48)
    vit = loaded(state, "torchvision-vit")
    x = reference._process_input(images)
    x = reference.encoder(torch.cat([reference.class_token.expand(len(x), -1, -1), x], 1))
    compare(vit(images), [x[:, 1:].transpose(1, 2).unflatten(2, (3, 3))])
    # A class token includes its position here: the export has the sum, and zeros as its position.
    back, _ = translate_back(vit.state_dict(), find("torchvision-vit"))
    assert torch.equal(back["class_token"], state["class_token"] + state["encoder.pos_embedding"][:, :1])
    assert back["encoder.pos_embedding"][:, 0].eq(0).all()
    assert torch.equal(back["encoder.pos_embedding"][:, 1:], state["encoder.pos_embedding"][:, 1:])


# ---- transformers ----

NANO = {"hidden_size": 128, "num_hidden_layers": 6, "num_attention_heads": 4}
DINO = {**NANO, "patch_size": 14, "image_size": 98}
PATCHES = {**NANO, "intermediate_size": 512, "image_size": 96}
REGISTERS = {**NANO, "num_register_tokens": 4}
TRANSFORMERS = {  # encoder, options of its configuration, layout, image size
    "vit": ("ViTModel", PATCHES, "transformers-vit", (64, 112)),
    "deit": ("DeiTModel", PATCHES, "transformers-deit", (128, 80)),
    "dinov2": ("Dinov2Model", DINO, "transformers-dinov2", (70, 126)),
    "dinov2 gated": ("Dinov2Model", {**DINO, "use_swiglu_ffn": True}, "transformers-dinov2", (98, 98)),
    "dinov2 with registers": ("Dinov2WithRegistersModel", DINO, "transformers-dinov2", (70, 126)),
    "dinov3": ("DINOv3ViTModel", {**REGISTERS, "intermediate_size": 512}, "transformers-dinov3", (96, 160)),
    "resnet": ("ResNetModel", {**R34, "depths": [2, 2, 2, 2]}, "transformers-resnet", (71, 115)),
    "mit": ("SegformerForImageClassification", {}, "transformers-mit", (64, 96)),
}


@pytest.mark.parity("transformers-vit", "transformers-deit", "transformers-dinov2", "transformers-resnet")
@pytest.mark.parity("transformers-dinov3", "transformers-mit")
@pytest.mark.parametrize("name", TRANSFORMERS)
@torch.no_grad()
def test_features_match_transformers(name, tmp_path):
    import transformers

    kind, configuration, layout, size = TRANSFORMERS[name]
    theirs = getattr(transformers, kind)
    reference = randomise(theirs(theirs.config_class(**configuration))).eval()
    for key, parameter in reference.named_parameters():
        if key.endswith("position_embeddings"):
            nn.init.normal_(parameter)
    reference.save_pretrained(tmp_path)
    state = load_file(tmp_path / "model.safetensors")
    ours, of_memory = loaded(state, layout), loaded(reference.state_dict(), layout).state_dict()
    assert all(torch.equal(of_memory[key], x) for key, x in ours.state_dict().items())
    images = torch.randn(2, 3, *size)
    of_any_size = {"interpolate_pos_encoding": True} if kind in ("ViTModel", "DeiTModel") else {}
    expected = reference(images, output_hidden_states=True, **of_any_size).hidden_states
    if name in ("resnet", "mit"):
        expected = expected[-4:]
    else:
        norm = reference.norm if name == "dinov3" else reference.layernorm
        tokens = [norm(expected[block]) for block in ours.feature_blocks]
        h, w = (side // ours.stride for side in size)
        expected = [x[:, -h * w :].transpose(1, 2).unflatten(2, (h, w)) for x in tokens]
    compare(ours(images), expected)
