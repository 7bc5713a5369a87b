"""DINOv3's vision transformers: transformers' DINOv3ViT with random weights, and the authors' keys."""

import re

import pytest
import torch

from densevit.errors import WeightsError
from densevit.weights.key_mapping import describe, translate_back
from densevit.weights.layouts import find

pytestmark = pytest.mark.integration

SMALL = {"hidden_size": 128, "num_hidden_layers": 6, "num_attention_heads": 4, "num_register_tokens": 4}
SIZES = [(96, 160), (64, 64), (112, 48)]


def make(randomise, **options):
    import transformers

    if not hasattr(transformers, "DINOv3ViTConfig"):
        pytest.skip("transformers lacks DINOv3")
    torch.manual_seed(0)
    config = transformers.DINOv3ViTConfig(**SMALL, **{"intermediate_size": 512, **options})
    return randomise(transformers.DINOv3ViTModel(config))


def released(state):
    """The tensors with the keys of facebookresearch/dinov3; the bias of keys is not used, by its mask."""
    result = {"mask_token": torch.zeros(1, 128), "rope_embed.periods": torch.ones(8)}
    names = {"embeddings.cls_token": "cls_token", "embeddings.register_tokens": "storage_tokens",
             "embeddings.patch_embeddings.": "patch_embed.proj.", "norm.": "norm."}  # fmt: skip
    for key, tensor in state.items():
        key = re.sub(r"^model\.", "", key)
        name = next((new + key.removeprefix(old) for old, new in names.items() if key.startswith(old)), key)
        match = re.match(r"layer\.(\d)\.(.*)", name)
        if match:
            inner = match[2].replace("attention.o_proj", "attn.proj").replace("mlp.up_proj", "mlp.fc1")
            inner = inner.replace("mlp.down_proj", "mlp.fc2")
            inner = re.sub(r"layer_scale(\d)\.lambda1", r"ls\1.gamma", inner)
            name = f"blocks.{match[1]}.{inner}"
        if "_proj" not in name and "mask_token" not in name:
            result[name] = tensor
    for i in range(6):
        layer = {re.sub(r"^model\.", "", key): x for key, x in state.items()}
        q, k, v = (layer[f"layer.{i}.attention.{name}_proj.weight"] for name in "qkv")
        bias = [layer[f"layer.{i}.attention.q_proj.bias"], torch.randn(128), layer[f"layer.{i}.attention.v_proj.bias"]]
        result[f"blocks.{i}.attn.qkv.weight"], result[f"blocks.{i}.attn.qkv.bias"] = (
            torch.cat([q, k, v]),
            torch.cat(bias),
        )
        result[f"blocks.{i}.attn.qkv.bias_mask"] = torch.ones(384)
    return result


@pytest.mark.parity("dinov3", "transformers-dinov3")
@pytest.mark.parametrize("layout", ["transformers-dinov3", "dinov3"])
def test_features_match_transformers(layout, loaded, randomise):
    theirs = make(randomise)
    state = theirs.state_dict() if layout == "transformers-dinov3" else released(theirs.state_dict())
    vit = loaded(state, layout)
    section = describe(state, find(layout))["backbone"]
    assert (section["positions"], section["key_bias"], section["registers"]) == ("rotary", False, 4)
    for size in SIZES:
        images = torch.randn(2, 3, *size)
        with torch.no_grad():
            expected = theirs(images).last_hidden_state[:, 5:].transpose(1, 2).unflatten(2, (size[0] // 16, -1))
            torch.testing.assert_close(vit(images)[-1], expected, atol=1e-4, rtol=1e-4)


def test_a_round_trip_has_the_same_tensors(loaded, randomise):
    state = {re.sub(r"^model\.", "", key): x for key, x in make(randomise).state_dict().items()}
    back, unknown = translate_back(loaded(state, "transformers-dinov3").state_dict(), find("transformers-dinov3"))
    assert unknown == [] and state.keys() - back.keys() == {"embeddings.mask_token"}
    assert all(torch.equal(back[key], state[key]) for key in back)


def test_gated_mlps_are_an_error(randomise):
    state = make(randomise, use_gated_mlp=True, intermediate_size=256).state_dict()
    with pytest.raises(WeightsError, match=r"gate_proj|gated"):
        describe(state, find("transformers-dinov3"))


@pytest.mark.parametrize(
    "kind", [f"{keys}dinov3-{part}" for keys in ("", "transformers-") for part in ("gated", "convnext")]
)
def test_what_is_not_read_says_what_to_do(kind, randomise, tmp_path):
    """A model of transformers where it has one; else the authors' keys."""
    import densevit

    transformers = pytest.importorskip("transformers")
    if kind == "transformers-dinov3-gated":
        state = make(randomise, use_gated_mlp=True, intermediate_size=256).state_dict()
    elif kind == "transformers-dinov3-convnext":
        config = transformers.DINOv3ConvNextConfig(hidden_sizes=[8, 16, 32, 64], depths=[1, 1, 1, 1])
        state = transformers.DINOv3ConvNextModel(config).state_dict()
    elif kind == "dinov3-gated":
        state = released(make(randomise).state_dict())
        for name in ("w1", "w2", "w3"):
            state[f"blocks.0.mlp.{name}.weight"] = torch.zeros(2, 2)
        state = {key: tensor for key, tensor in state.items() if ".mlp.fc" not in key}
    else:
        keys = ("downsample_layers.0.0.weight", "stages.0.0.dwconv.weight", "stages.0.0.gamma", "norms.3.weight")
        state = {key: torch.zeros(2) for key in keys}
    torch.save(state, tmp_path / "weights.pth")
    with pytest.raises(WeightsError, match=r"of DINOv3 are recognised.*Fix: use timm's copy.*convnext_tiny"):
        densevit.create_backbone("vit", variant="nano", weights=tmp_path / "weights.pth")
