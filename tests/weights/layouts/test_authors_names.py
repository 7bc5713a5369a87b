"""EoMT, SegFormer, MiT and DINOv3: transformers' models with random weights and the authors' names."""

import re

import pytest
import torch
from torch import nn

import densevit
from densevit.errors import WeightsError
from densevit.weights.key_mapping import describe
from densevit.weights.layouts import find, recognise
from tests.weights.layouts import models
from tests.weights.layouts.models import IMAGENET, assert_same, run

pytestmark = pytest.mark.integration

SEGFORMER = [  # transformers' names in files -> the authors', as in transformers' conversion script
    (r"encoder\.patch_embeddings\.(\d)\.proj", lambda m: f"patch_embed{int(m[1]) + 1}.proj"),
    (r"encoder\.patch_embeddings\.(\d)\.layer_norm", lambda m: f"patch_embed{int(m[1]) + 1}.norm"),
    (r"encoder\.block\.(\d)\.", lambda m: f"block{int(m[1]) + 1}."),
    (r"encoder\.layer_norm\.(\d)\.", lambda m: f"norm{int(m[1]) + 1}."),
    (r"layer_norm_(\d)", r"norm\1"),
    (r"attention\.self\.query", "attn.q"),
    (r"attention\.output\.dense", "attn.proj"),
    (r"attention\.self\.sr", "attn.sr"),
    (r"attention\.self\.layer_norm", "attn.norm"),
    (r"mlp\.dense(\d)", r"mlp.fc\1"),
    (r"^segformer\.", "backbone."),
    (r"linear_c\.(\d)", lambda m: f"linear_c{int(m[1]) + 1}"),
    (r"linear_fuse", "linear_fuse.conv"),
    (r"decode_head\.batch_norm", "decode_head.linear_fuse.bn"),
    (r"decode_head\.classifier", "decode_head.linear_pred"),
]
EOMT = [
    (r"^embeddings\.cls_token", "network.encoder.backbone.cls_token"),
    (r"^embeddings\.register_tokens", "network.encoder.backbone.reg_token"),
    (r"^embeddings\.position_embeddings\.weight", "network.encoder.backbone.pos_embed"),
    (r"^embeddings\.patch_embeddings\.projection", "network.encoder.backbone.patch_embed.proj"),
    (r"^layers\.(\d)\.attention\.out_proj", r"network.encoder.backbone.blocks.\1.attn.proj"),
    (r"^layers\.(\d)\.attention\.", r"network.encoder.backbone.blocks.\1.attn."),
    (r"^layers\.(\d)\.layer_scale(\d)\.lambda1", r"network.encoder.backbone.blocks.\1.ls\2.gamma"),
    (r"^layers\.(\d)\.", r"network.encoder.backbone.blocks.\1."),
    (r"^layernorm\.", "network.encoder.backbone.norm."),
    (r"^query\.", "network.q."),
    (r"^class_predictor\.", "network.class_head."),
    (r"^upscale_block\.block\.(\d)\.layernorm2d", r"network.upscale.\1.norm"),
    (r"^upscale_block\.block\.", "network.upscale."),
    (r"^mask_head\.fc1", "network.mask_head.0"),
    (r"^mask_head\.fc2", "network.mask_head.2"),
    (r"^mask_head\.fc3", "network.mask_head.4"),
    (r"^attn_mask_probs", "network.attn_mask_probs"),
]
DINOV3 = [
    (r"^embeddings\.cls_token", "cls_token"),
    (r"^embeddings\.register_tokens", "storage_tokens"),
    (r"^embeddings\.patch_embeddings\.", "patch_embed.proj."),
    (r"^layer\.(\d)\.", r"blocks.\1."),
    (r"attention\.o_proj", "attn.proj"),
    (r"attention\.([qkv])_proj", r"attn.\1_proj"),
    (r"mlp\.up_proj", "mlp.fc1"),
    (r"mlp\.down_proj", "mlp.fc2"),
    (r"layer_scale(\d)\.lambda1", r"ls\1.gamma"),
]


def renamed(state, names):
    """The tensors with the authors' names; query, key and value in one tensor."""
    result = {}
    for key, tensor in state.items():
        key = key.removeprefix("model.")
        for pattern, replacement in names:
            key = re.sub(pattern, replacement, key)
        result[key] = tensor
    for key in [key for key in result if ".attn.q_proj.weight" in key]:
        block = key.removesuffix("q_proj.weight")
        parts = {kind: [result.pop(f"{block}{x}_proj.{kind}", None) for x in "qkv"] for kind in ("weight", "bias")}
        if parts["bias"][1] is None:
            parts["bias"][1] = torch.randn_like(parts["bias"][0])  # without effect by its mask
            result[f"{block}qkv.bias_mask"] = torch.ones(3 * len(parts["bias"][0]))
        result |= {f"{block}qkv.{kind}": torch.cat(own) for kind, own in parts.items()}
    return result


def segformer_state(theirs):
    from transformers.core_model_loading import revert_weight_conversion

    state = dict(revert_weight_conversion(theirs, theirs.state_dict()))
    for key in [key for key in state if "attention.self.value" in key]:
        value, own = state.pop(key), key.replace(".value.", ".key.")
        state[own.replace("attention.self.key", "attn.kv")] = torch.cat([state.pop(own), value])
    return renamed(state, SEGFORMER)


@pytest.mark.parity("segformer")
@torch.no_grad()
def test_logits_of_segformer_match(whole, padded_batch):
    theirs = models.segformer()
    state = segformer_state(theirs)
    unused = {"weight": torch.zeros(5, 8, 1, 1), "bias": torch.zeros(5)}
    state |= {f"decode_head.conv_seg.{kind}": x for kind, x in unused.items()}
    layout = recognise(state)
    assert layout.name == "segformer" and "non-commercial" in layout.publishing.licence
    ours = whole(state, layout, without_effect=r"decode_head\.conv_seg")
    batch = padded_batch([(61, 96), (64, 83)])
    expected = run(theirs, batch, *IMAGENET).logits
    assert expected.std() > 0.1
    torch.testing.assert_close(ours(batch)["segmentation"]["logits"], expected, rtol=1e-4, atol=1e-3)


@pytest.mark.parity("nvidia-mit", "transformers-mit")
@pytest.mark.parametrize("name", ["nvidia-mit", "transformers-mit"])
@torch.no_grad()
def test_features_of_mit_match(name, loaded):
    theirs = models.segformer("SegformerForImageClassification")
    state, images = theirs.state_dict(), torch.randn(1, 3, 64, 96)
    if name == "nvidia-mit":
        state = {key.removeprefix("backbone."): x for key, x in segformer_state(theirs).items()}
        state = {re.sub(r"^classifier", "head", key): x for key, x in state.items()}
    assert "non-commercial" in find(name).publishing.licence
    expected = theirs(images, output_hidden_states=True).hidden_states
    for found, reference in zip(loaded(state, name)(images), expected, strict=True):
        torch.testing.assert_close(found, reference, rtol=1e-4, atol=1e-3)


@pytest.mark.parity("eomt", "eomt-instance", "eomt-semantic")
@pytest.mark.parametrize("task", models.TASKS)
@torch.no_grad()
def test_outputs_of_eomt_match(task, tmp_path, padded_batch):
    theirs = models.eomt(2, task)
    state = renamed(theirs.state_dict(), EOMT)
    state["network.encoder.backbone.pos_embed"] = state["network.encoder.backbone.pos_embed"][None]
    state |= {f"network.encoder.pixel_{name}": torch.ones(1, 3, 1, 1) for name in ("mean", "std")}
    assert recognise(state).name == f"eomt{'' if task == 'panoptic' else f'-{task}'}"
    torch.save(state, tmp_path / "pytorch_model.bin")
    model = densevit.load(str(tmp_path / "pytorch_model.bin")).model.eval()
    key = models.TASKS[task][2]
    assert model.heads[key].last_blocks == 2  # from the state of annealing
    assert model.backbone.input_size == (64, 64)
    batch = padded_batch([(64, 64)] * 2)
    assert_same(model(batch)[key], run(theirs, batch, *IMAGENET))


def test_differences_from_dinov3_are_refused(tmp_path):
    keys = ("network.q.weight", "network.upscale.0.conv1.weight", "network.encoder.backbone.patch_embed.cls_token",
            "network.encoder.backbone.blocks.0.attention.q_proj.weight")  # fmt: skip
    torch.save({key: torch.zeros(2) for key in keys}, tmp_path / "pytorch_model.bin")
    with pytest.raises(WeightsError, match=r"differences from DINOv3's weights, not weights\. Fix:"):
        densevit.load(str(tmp_path / "pytorch_model.bin"))


# ---- DINOv3 ----


def dinov3(randomise, **options):
    import transformers

    torch.manual_seed(0)
    small = {"hidden_size": 128, "num_hidden_layers": 6, "num_attention_heads": 4, "num_register_tokens": 4}
    config = transformers.DINOv3ViTConfig(**small, **{"intermediate_size": 512, **options})
    return randomise(transformers.DINOv3ViTModel(config))


def released(state):
    more = {"mask_token": torch.zeros(1, 128), "rope_embed.periods": torch.ones(8)}
    return {key: x for key, x in renamed(state, DINOV3).items() if "embeddings" not in key} | more


@pytest.mark.parity("dinov3", "transformers-dinov3")
@pytest.mark.parametrize("layout", ["transformers-dinov3", "dinov3"])
def test_features_of_dinov3_match(layout, loaded, randomise):
    theirs = dinov3(randomise)
    state = theirs.state_dict() if layout == "transformers-dinov3" else released(theirs.state_dict())
    vit = loaded(state, layout)
    section = describe(state, find(layout))["backbone"]
    assert (section["positions"], section["key_bias"], section["registers"]) == ("rotary", False, 4)
    for size in [(96, 160), (112, 48)]:
        images = torch.randn(2, 3, *size)
        with torch.no_grad():
            expected = theirs(images).last_hidden_state[:, 5:].transpose(1, 2).unflatten(2, (size[0] // 16, -1))
            torch.testing.assert_close(vit(images)[-1], expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    "kind", [f"{keys}dinov3-{part}" for keys in ("", "transformers-") for part in ("gated", "convnext")]
)
def test_other_dinov3s_are_refused_with_what_to_do(kind, randomise, tmp_path):
    """A model of transformers where it has one; else the authors' keys."""
    import transformers

    if kind == "transformers-dinov3-gated":
        state = dinov3(randomise, use_gated_mlp=True, intermediate_size=256).state_dict()
        with pytest.raises(WeightsError, match=r"gate_proj|gated"):
            describe(state, find("transformers-dinov3"))
    elif kind == "transformers-dinov3-convnext":
        config = transformers.DINOv3ConvNextConfig(hidden_sizes=[8, 16, 32, 64], depths=[1, 1, 1, 1])
        model: nn.Module = transformers.DINOv3ConvNextModel(config)
        state = model.state_dict()
    elif kind == "dinov3-gated":
        state = {key: x for key, x in released(dinov3(randomise).state_dict()).items() if ".mlp.fc" not in key}
        state |= {f"blocks.0.mlp.{name}.weight": torch.zeros(2, 2) for name in ("w1", "w2", "w3")}
    else:
        keys = ("downsample_layers.0.0.weight", "stages.0.0.dwconv.weight", "stages.0.0.gamma", "norms.3.weight")
        state = {key: torch.zeros(2) for key in keys}
    torch.save(state, tmp_path / "weights.pth")
    with pytest.raises(WeightsError, match=r"of DINOv3 are recognised.*Fix: use timm's copy.*convnext_tiny"):
        densevit.create_backbone("vit", variant="nano", weights=tmp_path / "weights.pth")
