"""transformers' plain vision transformers: ViT, DeiT, ViTMAE and DINOv2, with the keys of files and of models.

Files, including files on the Hub, have the keys of transformers 4, also if version 5 writes them; the `state_dict` of a
model in version 5 has other keys. A classifier's keys begin with its encoder's name: `vit.`, `deit.`, `dinov2.`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from densevit.errors import WeightsError
from densevit.interfaces import (
    CheckpointLayout,
    Class,
    Line,
    OtherKeys,
    Publishing,
    Rearrangement,
    SpecialTensors,
    StateDict,
)
from densevit.layouts import GRID, TOKENS, added_to_tokens, count
from densevit_backbones import licences
from densevit_backbones.vit import published_models
from densevit_backbones.vit.dinov2_checkpoints import with_gated_export
from densevit_backbones.vit.inferred_options import OPTIONS, describe_resized
from densevit_backbones.vit.variants import VARIANTS

_NOT_IN_VIT = ("registers", "qk_norm", "swiglu", "layer_scale", "stem")  # options that transformers' ViT lacks
_HALVES = (0.5, 0.5, 0.5)  # of ViTImageProcessor and Google's files; DINO's metadata states ImageNet's values


_NO_EFFECT = {
    "classifier.*": "the classification head",
    "cls_classifier.*": "the classification head",
    "distillation_classifier.*": "DeiT's distillation head",
    "pooler.*": "a layer of the classification head",
    "embeddings.mask_token": "the mask token of pre-training",
    "decoder.*": "the decoder of pre-training",
}
_BLOCK, _ATTENTION = "encoder.layer.{i}", "encoder.layer.{i}.attention"
_PARTS = tuple(enumerate(("query", "key", "value")))
_SHARED = (
    Line("embeddings.cls_token", "class_token", TOKENS),
    Line("embeddings.distillation_token", "distillation_token", TOKENS),
    Line("embeddings.register_tokens", "register_tokens", TOKENS),
    Line("embeddings.position_embeddings", "position_table", GRID),
    Line("embeddings.patch_embeddings.projection.*", "stem.projection.*"),
    *(Line(f"{_ATTENTION}.attention.{name}.*", f"blocks.{{i}}.attention.qkv.*[{part}/3]") for part, name in _PARTS),
    Line(f"{_ATTENTION}.output.dense.*", "blocks.{i}.attention.output.*"),
    Line("layernorm.*", "norm.*"),
)
_VIT = (
    *_SHARED,
    Line(f"{_BLOCK}.layernorm_before.*", "blocks.{i}.norm1.*"),
    Line(f"{_BLOCK}.layernorm_after.*", "blocks.{i}.norm2.*"),
    Line(f"{_BLOCK}.intermediate.dense.*", "blocks.{i}.mlp.expand.*"),
    Line(f"{_BLOCK}.output.dense.*", "blocks.{i}.mlp.contract.*"),
)
_DINOV2 = (
    *_SHARED,
    Line(f"{_BLOCK}.norm1.*", "blocks.{i}.norm1.*"),
    Line(f"{_BLOCK}.layer_scale1.lambda1", "blocks.{i}.scale1.scale"),
    Line(f"{_BLOCK}.norm2.*", "blocks.{i}.norm2.*"),
    Line(f"{_BLOCK}.mlp.fc1.*", "blocks.{i}.mlp.expand.*"),
    Line(f"{_BLOCK}.mlp.fc2.*", "blocks.{i}.mlp.contract.*"),
    Line(f"{_BLOCK}.mlp.weights_in.*", "blocks.{i}.mlp.expand.*"),
    Line(f"{_BLOCK}.mlp.weights_out.*", "blocks.{i}.mlp.contract.*"),
    Line(f"{_BLOCK}.mlp.gate_proj.*", "blocks.{i}.mlp.expand.*[0/2]"),  # of a model in version 5, as the next two
    Line(f"{_BLOCK}.mlp.up_proj.*", "blocks.{i}.mlp.expand.*[1/2]"),
    Line(f"{_BLOCK}.mlp.down_proj.*", "blocks.{i}.mlp.contract.*"),
    Line(f"{_BLOCK}.layer_scale2.lambda1", "blocks.{i}.scale2.scale"),
)


def _memory(block: str) -> tuple[tuple[str, str], ...]:
    """Pairs of an attention layer's keys: in a version 5 model, and in its files.

    block: the prefix of the block's keys in the model.
    """
    names = ((f"{block}.attention.{name[0]}_proj.*", f"{_ATTENTION}.attention.{name}.*") for _, name in _PARTS)
    return (*names, (f"{block}.attention.o_proj.*", f"{_ATTENTION}.output.dense.*"))


_MEMORY = (
    *_memory("layers.{i}"),
    ("layers.{i}.mlp.fc1.*", f"{_BLOCK}.intermediate.dense.*"),
    ("layers.{i}.mlp.fc2.*", f"{_BLOCK}.output.dense.*"),
    ("layers.{i}.*", f"{_BLOCK}.*"),
)


def _vit_config(sections: Mapping[str, Any], state: StateDict, classes: Sequence[Class]) -> dict[str, dict[str, Any]]:
    options = sections["backbone"]
    if any(key in options for key in _NOT_IN_VIT) or not options.get("class_token", True):
        return {}
    distilled = bool(options.get("distillation_token"))
    model_type, name = ("deit", "DeiTModel") if distilled else ("vit", "ViTModel")
    config = _encoder(options, state) | {
        "model_type": model_type,
        "architectures": [name],
        "intermediate_size": len(state["blocks.0.mlp.expand.bias"]),
    }
    return {"config.json": config}


def _dinov2_config(
    sections: Mapping[str, Any], state: StateDict, classes: Sequence[Class]
) -> dict[str, dict[str, Any]]:
    options = sections["backbone"]
    if {"qk_norm", "stem", "feature_norm_eps"} & options.keys() or options.get("distillation_token"):
        return {}
    registers = options.get("registers", 0)
    more = {"model_type": "dinov2_with_registers", "num_register_tokens": registers} if registers else {}
    config = _encoder(options, state) | {
        "model_type": "dinov2",
        "architectures": ["Dinov2WithRegistersModel" if registers else "Dinov2Model"],
        "mlp_ratio": 4,
        "use_swiglu_ffn": bool(options.get("swiglu")),
        **more,
    }
    return {"config.json": config}


def _encoder(options: Mapping[str, Any], state: StateDict) -> dict[str, Any]:
    width = len(state["blocks.0.norm1.weight"])
    return {
        "hidden_size": width,
        "num_hidden_layers": count(state, r"blocks\.(\d+)\.norm1\.weight"),
        "num_attention_heads": next(variant.heads for variant in VARIANTS.values() if variant.width == width),
        "image_size": options["image_size"],
        "patch_size": options["patch_size"],
        "num_channels": 3,
        "layer_norm_eps": 1e-6,
        "hidden_act": "gelu",
        "qkv_bias": True,
    }


def _check_heads(state: StateDict, metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Raises WeightsError if config.json has another number of attention heads than the variant. Returns {}."""
    config = metadata.get("config", {})
    width, heads = config.get("hidden_size"), config.get("num_attention_heads")
    expected = next((variant.heads for variant in VARIANTS.values() if variant.width == width), heads)
    if heads != expected:
        raise WeightsError(
            f"config.json has {heads} attention heads for {width} channels; a ViT of that width is built with "
            f"{expected}, and would compute something else. Use the backbone `timm`, or a layout of your own."
        )
    return {}


def _layout(
    name: str,
    signature_keys: tuple[str, ...],
    lines: tuple[Line, ...],
    keys: OtherKeys,
    rearrange: Rearrangement,
    publishing: Publishing,
    variants: tuple[CheckpointLayout, ...] = (),
) -> CheckpointLayout:
    return CheckpointLayout(
        name=name,
        signature_keys=("embeddings.cls_token", "encoder.layer.0.attention.attention.query.weight", *signature_keys),
        lines=lines,
        describe=partial(describe_resized, resizing="bicubic"),
        other_keys=keys,
        special=SpecialTensors(no_effect=_NO_EFFECT, rearrange=rearrange),
        options=replace(OPTIONS, saved=_check_heads, implied={"hidden_act": ("gelu",)}),
        publishing=publishing,
        variants=variants,
    )


_TABLE, _CLASS, _DISTILLATION = (
    f"embeddings.{name}" for name in ("position_embeddings", "cls_token", "distillation_token")
)
_KEYS = OtherKeys(("vit.",), _MEMORY)  # a classifier's keys begin with the name of the model
_POSITIONS = added_to_tokens(_TABLE, (_CLASS, _DISTILLATION))
_GATED = {"fc1": ("weights_in",), "fc2": ("weights_out",)}

_published = partial(Publishing, licences=licences.TRANSFORMERS)

MAE = _layout(
    "transformers-mae",
    ("decoder.mask_token",),
    _VIT,
    _KEYS,
    _POSITIONS,
    _published(files={"hf:facebook/vit-mae-*": licences.MAE}, models=published_models.MAE),
)
DEIT = _layout(
    "transformers-deit",
    (_DISTILLATION,),
    _VIT,
    OtherKeys(("deit.",), _MEMORY),
    _POSITIONS,
    _published(files={"hf:facebook/deit-*": licences.DEIT}, models=published_models.DEIT, config_files=_vit_config),
)
DINOV2 = _layout(
    "transformers-dinov2",
    (f"{_BLOCK}.layer_scale1.lambda1",),
    _DINOV2,
    OtherKeys(("dinov2.", "dinov2_with_registers."), _memory(_BLOCK)),
    with_gated_export(added_to_tokens(_TABLE, (_CLASS,)), _GATED),
    _published(
        files={"hf:facebook/dinov2-*": licences.DINOV2}, models=published_models.DINOV2, config_files=_dinov2_config
    ),
)
VIT = _layout(
    "transformers-vit",
    (),
    _VIT,
    _KEYS,
    _POSITIONS,
    _published(
        files={"hf:google/vit-*": licences.VIT},
        models=published_models.GOOGLE,
        mean=_HALVES,
        std=_HALVES,
        config_files=_vit_config,
    ),
    (MAE, DEIT, DINOV2),
)
