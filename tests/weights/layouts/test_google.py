"""Google's ViT files against timm's conversion and the released lists of names."""

import numpy as np
import pytest
import torch

from densevit.weights.key_mapping import describe, translate_back
from densevit.weights.layouts import find

pytestmark = pytest.mark.integration

SMALL = {"embed_dim": 128, "depth": 6, "num_heads": 4, "dynamic_img_size": True, "dynamic_img_pad": True}
SIZES = [(71, 115), (97, 64)]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("google_ViT-L_32", {"variant": "large", "patch_size": 32, "image_size": 224}),
        (
            "google_R50+ViT-B_16",
            {
                "variant": "base",
                "patch_size": 16,
                "stem": "resnet",
                "weight_standardization": "std",
                "image_size": 384,
            },
        ),
    ],
)
def test_released_files_are_translated_completely(name, expected, released, loaded):
    with torch.device("meta"):
        state = released(name)
    loaded(state, "google-vit")
    assert describe(state, find("google-vit")) == {"backbone": {"name": "vit", "gelu": "tanh", **expected}}
    assert find("google-vit").mean == find("google-vit").std == (0.5, 0.5, 0.5)


def encoder(width=128, heads=4, depth=6, tokens=37):
    """A small file's arrays without the patch embedding."""
    shapes = {"Transformer/posembed_input/pos_embedding": (1, tokens, width), "cls": (1, 1, width)}
    norms = ["Transformer/encoder_norm"]
    for i in range(depth):
        block = f"Transformer/encoderblock_{i}"
        norms += [f"{block}/LayerNorm_0", f"{block}/LayerNorm_2"]
        attention = f"{block}/MultiHeadDotProductAttention_1"
        for name in ("query", "key", "value"):
            shapes |= {f"{attention}/{name}/kernel": (width, heads, width // heads)}
            shapes |= {f"{attention}/{name}/bias": (heads, width // heads)}
        shapes |= {f"{attention}/out/kernel": (heads, width // heads, width), f"{attention}/out/bias": (width,)}
        mlp = f"{block}/MlpBlock_3/Dense"
        shapes |= {f"{mlp}_0/kernel": (width, 4 * width), f"{mlp}_0/bias": (4 * width,)}
        shapes |= {f"{mlp}_1/kernel": (4 * width, width), f"{mlp}_1/bias": (width,)}
    for norm in norms:
        shapes |= {f"{norm}/scale": (width,), f"{norm}/bias": (width,)}
    shapes |= {"head/kernel": (width, 7), "head/bias": (7,), "pre_logits/kernel": (width, width)}
    return shapes | {"embedding/bias": (width,)}


def filled(shapes):
    tensors = {}
    for name, shape in shapes.items():
        x = torch.randn(shape)
        if name.endswith("scale"):
            x = (0.2 if "gn3" in name else 1.0) * (1 + 0.3 * x)  # residual branches as small as trained ones
        elif name.endswith("bias"):
            x *= 0.3
        elif name.endswith("kernel"):
            x *= shape[-1] ** 0.5 / x.numel() ** 0.5 if len(shape) != 3 or "/out/" in name else shape[0] ** -0.5
        tensors[name] = x
    return tensors


def loaded_by_timm(name, tensors, folder, **options):
    import timm

    np.savez(folder / "vit.npz", **{key: x.numpy() for key, x in tensors.items()})
    reference = timm.create_model(name, pretrained=False, num_classes=7, **SMALL, **options).eval()
    reference.load_pretrained(folder / "vit.npz")
    return reference


@pytest.mark.parametrize("prefix", ["", "opt/target/"])
def test_features_match_timm(prefix, loaded, tmp_path):
    state = {f"{prefix}{name}": x for name, x in filled(encoder() | {"embedding/kernel": (16, 16, 3, 128)}).items()}
    reference = loaded_by_timm("vit_tiny_patch16_224", state, tmp_path, img_size=96)
    vit = loaded(state, "google-vit", gelu="erf")  # timm's
    for size in SIZES:
        images = torch.randn(2, 3, *size)
        with torch.no_grad():
            expected = reference.forward_intermediates(
                images, [i - 1 for i in vit.feature_blocks], norm=True, intermediates_only=True
            )
            for x, y in zip(vit(images), expected, strict=True):
                assert y.abs().mean() > 0.1
                torch.testing.assert_close(x, y, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("weight_standardization", ["std", "variance"])
def test_hybrid_features_match_google_and_timm(weight_standardization, released, loaded, standardized_by_std, tmp_path):
    with torch.device("meta"):
        names = released("google_R50+ViT-B_16")
    stem = {key: tuple(x.shape) for key, x in names.items() if key.startswith(("block", "conv_root", "gn_root"))}
    state = filled({**encoder(), **stem, "embedding/kernel": (1, 1, 1024, 128)})
    for key in stem:
        if key.endswith("kernel"):  # filters of small variance, so that epsilon matters
            state[key] *= 10 ** torch.empty(stem[key][-1]).uniform_(-3, 0)
    reference = loaded_by_timm("vit_base_r50_s16_384", state, tmp_path, img_size=96)
    vit = loaded(
        state,
        "google-vit",
        gelu="erf",  # timm's
        **({} if weight_standardization == "std" else {"weight_standardization": "variance"}),
    )
    if weight_standardization == "std":
        standardized_by_std(reference)
    early = []
    for stage in reference.patch_embed.backbone.stages[:2]:
        stage.register_forward_hook(lambda module, inputs, x: early.append(x))
    images = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        late = reference.forward_intermediates(
            images, [i - 1 for i in vit.feature_blocks], norm=True, intermediates_only=True
        )
        for x, y in zip(vit(images), [*early, *late], strict=True):
            assert y.abs().mean() > 0.1
            torch.testing.assert_close(x, y, atol=1e-4, rtol=1e-4)


def test_hybrid_of_another_resnet_raises(released):
    with torch.device("meta"):
        state = released("google_R50+ViT-B_16")
    smaller = {key: x for key, x in state.items() if "block3/unit9" not in key}
    with pytest.raises(ValueError, match="first three stages of a ResNet-50"):
        describe(smaller, find("google-vit"))


def test_export_is_unsupported(loaded):
    vit = loaded(filled(encoder() | {"embedding/kernel": (16, 16, 3, 128)}), "google-vit")
    with pytest.raises(ValueError, match="can only be read, not exported"):
        translate_back(vit.state_dict(), find("google-vit"))
