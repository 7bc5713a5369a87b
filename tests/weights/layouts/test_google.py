"""Google's ViT files against timm's conversion and the released lists of names."""

import pytest
import torch

from densevit.weights.key_mapping import describe, translate_back
from densevit.weights.layouts import find

pytestmark = pytest.mark.integration


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
    assert find("google-vit").publishing.mean == find("google-vit").publishing.std == (0.5, 0.5, 0.5)


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
