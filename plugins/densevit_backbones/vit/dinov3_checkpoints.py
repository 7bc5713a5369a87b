"""DINOv3's vision transformers (Siméoni et al. 2025): facebookresearch/dinov3, and transformers' DINOv3ViT.

Small, base and large. Models with gated MLPs ("plus" and 7B) and ConvNeXts are recognised and refused; use timm's
copies.
"""

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any

from densevit.errors import WeightsError
from densevit.interfaces import (
    ZEROS,
    CheckpointLayout,
    Licences,
    Line,
    OtherKeys,
    Publishing,
    SpecialTensors,
    StateDict,
)
from densevit.layouts import TOKENS
from densevit_backbones.vit.inferred_options import OPTIONS, describe
from densevit_backbones.vit.published_models import DINOV3 as MODELS

_LICENCES = Licences(
    "DINOv3 License",
    "DINOv3 License",
    "LVD-1689M",
    "DINOv3 ViT-7B",
    "https://github.com/facebookresearch/dinov3/blob/6876159/MODEL_CARD.md",
    "2026-11-29",
)
_PUBLISHING = Publishing(licences=_LICENCES, files={"dinov3_*.pth": _LICENCES, "hf:facebook/dinov3-*": _LICENCES})
EPS = 1e-5  # of the published models
NORM_EPS = "norm_eps"
_OPTIONS = replace(OPTIONS, project_defaults=(*OPTIONS.project_defaults, "positions", "key_bias"))
_KEY_BIAS = "blocks.{i}.attention.qkv.bias[1/3]"


_BY_TIMM = (
    "Fix: use timm's copy of the weights, backbone={name: timm, model: NAME, pretrained: true}, with NAME "
    "vit_small_plus_patch16_dinov3, vit_huge_plus_patch16_dinov3, vit_7b_patch16_dinov3 or, of ConvNeXt, "
    "convnext_tiny.dinov3_lvd1689m, convnext_small..., convnext_base..., convnext_large...."
)


def describe_dinov3(tensors: StateDict) -> dict[str, Any]:
    """The config section of a DINOv3 ViT, from tensors with densevit's keys. Raises WeightsError for another MLP."""
    wide, narrow = tensors["blocks.0.mlp.expand.weight"], tensors["blocks.0.mlp.contract.weight"]
    width = len(tensors["blocks.0.norm1.weight"])
    if wide.shape != (4 * width, width) or narrow.shape != (width, 4 * width):
        raise WeightsError(
            f"A DINOv3 ViT of {width} channels with MLP weights {tuple(wide.shape)}: the backbone `vit` has plain "
            f"MLPs of four times the width, no gated ones. {_BY_TIMM}"
        )
    section = describe(tensors)["backbone"]
    return {"backbone": section | {"positions": "rotary", "key_bias": False, NORM_EPS: EPS}}


def _refuse(models: str, tensors: StateDict) -> dict[str, Any]:
    raise WeightsError(f"{models} of DINOv3 are recognised, but not read from such a file. {_BY_TIMM}")


def transformers_lines(layer: str) -> tuple[Line, ...]:
    """Maps the keys of transformers' DINOv3 embeddings and blocks. layer: the key of a block, with `{i}`."""
    return (
        Line("embeddings.cls_token", "class_token", TOKENS),
        Line("embeddings.register_tokens", "register_tokens", TOKENS),
        Line("embeddings.patch_embeddings.*", "stem.projection.*"),
        Line(f"{layer}.norm1.*", "blocks.{i}.norm1.*"),
        Line(f"{layer}.attention.q_proj.*", "blocks.{i}.attention.qkv.*[0/3]"),
        Line(f"{layer}.attention.k_proj.weight", "blocks.{i}.attention.qkv.weight[1/3]"),
        Line(f"{layer}.attention.v_proj.*", "blocks.{i}.attention.qkv.*[2/3]"),
        Line(ZEROS, _KEY_BIAS),
        Line(f"{layer}.attention.o_proj.*", "blocks.{i}.attention.output.*"),
        Line(f"{layer}.layer_scale1.lambda1", "blocks.{i}.scale1.scale"),
        Line(f"{layer}.norm2.*", "blocks.{i}.norm2.*"),
        Line(f"{layer}.mlp.up_proj.*", "blocks.{i}.mlp.expand.*"),
        Line(f"{layer}.mlp.down_proj.*", "blocks.{i}.mlp.contract.*"),
        Line(f"{layer}.layer_scale2.lambda1", "blocks.{i}.scale2.scale"),
    )


def saved_norm_eps(state: StateDict, metadata: Mapping[str, Any]) -> dict[str, Any]:
    """`norm_eps` from config.json, if there is one. Raises WeightsError for another rotary base than 100."""
    config = metadata.get("config", {})
    base = config.get("rope_theta", (config.get("rope_parameters") or {}).get("rope_theta", 100.0))
    if base != 100:
        raise WeightsError(f"config.json has rope_theta {base}; a ViT with positions 'rotary' is built for 100.")
    return {f"backbone.{NORM_EPS}": float(config["layer_norm_eps"])} if "layer_norm_eps" in config else {}


DINOV3 = CheckpointLayout(
    name="dinov3",
    signature_keys=(
        "cls_token",
        "storage_tokens",
        "rope_embed.periods",
        "blocks.0.attn.qkv.weight",
        "blocks.0.ls1.gamma",
    ),
    lines=(
        Line("cls_token", "class_token", TOKENS),
        Line("storage_tokens", "register_tokens", TOKENS),
        Line("patch_embed.proj.*", "stem.projection.*"),
        Line("blocks.{i}.norm1.*", "blocks.{i}.norm1.*"),
        Line("blocks.{i}.attn.qkv.weight", "blocks.{i}.attention.qkv.weight"),
        *(
            Line(f"blocks.{{i}}.attn.qkv.bias[{part}/3]", f"blocks.{{i}}.attention.qkv.bias[{part}/3]")
            for part in (0, 2)
        ),
        Line("blocks.{i}.attn.qkv.bias[1/3]", ZEROS),
        Line(ZEROS, _KEY_BIAS),
        Line("blocks.{i}.attn.proj.*", "blocks.{i}.attention.output.*"),
        Line("blocks.{i}.ls1.gamma", "blocks.{i}.scale1.scale"),
        Line("blocks.{i}.norm2.*", "blocks.{i}.norm2.*"),
        Line("blocks.{i}.mlp.fc1.*", "blocks.{i}.mlp.expand.*"),
        Line("blocks.{i}.mlp.fc2.*", "blocks.{i}.mlp.contract.*"),
        Line("blocks.{i}.ls2.gamma", "blocks.{i}.scale2.scale"),
        Line("norm.*", "norm.*"),
    ),
    describe=describe_dinov3,
    special=SpecialTensors(
        no_effect={
            "mask_token": "the mask token of pre-training",
            "rope_embed.periods": "derived from the width of a head",
            "blocks.{i}.attn.qkv.bias_mask": "zeros for the bias of keys, which has no effect",
            "local_cls_norm.*": "a norm of pre-training",
            "cls_norm.*": "a norm of pre-training",
        }
    ),
    options=replace(_OPTIONS, project_defaults=(*_OPTIONS.project_defaults, NORM_EPS)),
    publishing=_PUBLISHING,
)
_GATED = "ViTs with gated MLPs (plus, 7B)"
GATED = CheckpointLayout(
    name="dinov3-gated",
    signature_keys=(*DINOV3.signature_keys, "blocks.0.mlp.w1.weight", "blocks.0.mlp.w3.weight"),
    lines=(),
    describe=partial(_refuse, _GATED),
    publishing=_PUBLISHING,
)
CONVNEXT = CheckpointLayout(
    name="dinov3-convnext",
    signature_keys=("downsample_layers.0.0.weight", "stages.0.0.dwconv.weight", "stages.0.0.gamma", "norms.3.weight"),
    lines=(),
    describe=partial(_refuse, "ConvNeXts"),
    publishing=_PUBLISHING,
)

TRANSFORMERS = CheckpointLayout(
    name="transformers-dinov3",
    signature_keys=(
        "embeddings.cls_token",
        "embeddings.register_tokens",
        "embeddings.patch_embeddings.weight",
        "layer.0.attention.o_proj.weight",
        "norm.weight",
    ),
    lines=(*transformers_lines("layer.{i}"), Line("norm.*", "norm.*")),
    describe=describe_dinov3,
    other_keys=OtherKeys(prefixes=("dinov3_vit.", "model."), spellings=(("model.layer.{i}.*", "layer.{i}.*"),)),
    special=SpecialTensors(no_effect={"embeddings.mask_token": "the mask token of pre-training"}),
    options=replace(
        _OPTIONS,
        unsaved=(f"backbone.{NORM_EPS}",),
        saved=saved_norm_eps,
        implied={"hidden_act": ("gelu",), "use_gated_mlp": (False,), "key_bias": (False,)},
    ),
    publishing=replace(_PUBLISHING, models=MODELS),
)
TRANSFORMERS_GATED = CheckpointLayout(
    name="transformers-dinov3-gated",
    signature_keys=(*TRANSFORMERS.signature_keys, "layer.0.mlp.gate_proj.weight"),
    lines=(),
    describe=partial(_refuse, _GATED),
    other_keys=TRANSFORMERS.other_keys,
    publishing=_PUBLISHING,
)
TRANSFORMERS_CONVNEXT = CheckpointLayout(
    name="transformers-dinov3-convnext",
    signature_keys=(
        "stages.0.downsample_layers.0.weight",
        "stages.0.layers.0.depthwise_conv.weight",
        "stages.0.layers.0.pointwise_conv1.weight",
        "stages.0.layers.0.gamma",
    ),
    lines=(),
    describe=partial(_refuse, "ConvNeXts"),
    other_keys=OtherKeys(prefixes=("model.",)),
    publishing=_PUBLISHING,
)
