"""transformers' plain vision transformers: ViT, DeiT, ViTMAE and DINOv2, with the keys of files and of models.

Files, including files on the Hub, have the keys of transformers 4, also if version 5 writes them; the `state_dict` of a
model in version 5 has other keys. A classifier's keys begin with its encoder's name: `vit.`, `deit.`, `dinov2.`.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from densevit.interfaces import CheckpointLayout, Class, Line, StateDict
from densevit.weights.positions import GRID, TOKENS, added_to_tokens
from densevit.weights.state import count
from densevit_backbones.vit.dinov2_checkpoints import with_gated_export
from densevit_backbones.vit.inferred_options import CONVENTIONS, USAGE_OPTIONS, describe
from densevit_backbones.vit.variants import VARIANTS

_NOT_IN_VIT = ("registers", "qk_norm", "swiglu", "layer_scale", "stem")  # our options that its ViT lacks
_HALVES = (0.5, 0.5, 0.5)  # of ViTImageProcessor and Google's files; DINO's metadata states its own, ImageNet's


def _no_effect(prefix: str) -> dict[str, str]:
    return {
        "classifier.*": "the classification head",
        "cls_classifier.*": "the classification head",
        "distillation_classifier.*": "DeiT's distillation head",
        f"{prefix}pooler.*": "a layer of the classification head",
        f"{prefix}embeddings.mask_token": "the mask token of pre-training",
        "decoder.*": "the decoder of pre-training",
    }


def _embeddings(prefix: str) -> list[Line]:
    return [
        Line(f"{prefix}embeddings.cls_token", "class_token", TOKENS),
        Line(f"{prefix}embeddings.distillation_token", "distillation_token", TOKENS),
        Line(f"{prefix}embeddings.register_tokens", "register_tokens", TOKENS),
        Line(f"{prefix}embeddings.position_embeddings", "position_table", GRID),
        Line(f"{prefix}embeddings.patch_embeddings.projection.*", "stem.projection.*"),
        Line(f"{prefix}layernorm.*", "norm.*"),
    ]


def _attention(theirs: str, query: str, out: str) -> list[Line]:
    """query: the name of the query projection; `query` or `q` is replaced for key and value."""
    others = ("query", "key", "value") if "query" in query else ("q", "k", "v")
    names = [query.replace(others[0], other) for other in others]
    ours = "blocks.{i}.attention"
    return [
        *(Line(f"{theirs}.{name}.*", f"{ours}.qkv.*[{part}/3]") for part, name in enumerate(names)),
        Line(f"{theirs}.{out}.*", f"{ours}.output.*"),
    ]


def _vit(prefix: str, version: int) -> tuple[Line, ...]:
    if version == 4:
        block, query, out = f"{prefix}encoder.layer.{{i}}", "attention.query", "output.dense"
        expand, contract = "intermediate.dense", "output.dense"
    else:
        block, query, out = f"{prefix}layers.{{i}}", "q_proj", "o_proj"
        expand, contract = "mlp.fc1", "mlp.fc2"
    return (
        *_embeddings(prefix),
        *_attention(f"{block}.attention", query, out),
        Line(f"{block}.layernorm_before.*", "blocks.{i}.norm1.*"),
        Line(f"{block}.layernorm_after.*", "blocks.{i}.norm2.*"),
        Line(f"{block}.{expand}.*", "blocks.{i}.mlp.expand.*"),
        Line(f"{block}.{contract}.*", "blocks.{i}.mlp.contract.*"),
    )


def _dinov2(prefix: str, version: int) -> tuple[Line, ...]:
    block = f"{prefix}encoder.layer.{{i}}"
    query, out = ("attention.query", "output.dense") if version == 4 else ("q_proj", "o_proj")
    gated = [
        Line(f"{block}.mlp.weights_in.*", "blocks.{i}.mlp.expand.*"),
        Line(f"{block}.mlp.weights_out.*", "blocks.{i}.mlp.contract.*"),
    ]
    if version == 5:
        gated = [
            Line(f"{block}.mlp.gate_proj.*", "blocks.{i}.mlp.expand.*[0/2]"),
            Line(f"{block}.mlp.up_proj.*", "blocks.{i}.mlp.expand.*[1/2]"),
            Line(f"{block}.mlp.down_proj.*", "blocks.{i}.mlp.contract.*"),
        ]
    return (
        *_embeddings(prefix),
        *_attention(f"{block}.attention", query, out),
        Line(f"{block}.norm1.*", "blocks.{i}.norm1.*"),
        Line(f"{block}.layer_scale1.lambda1", "blocks.{i}.scale1.scale"),
        Line(f"{block}.norm2.*", "blocks.{i}.norm2.*"),
        Line(f"{block}.mlp.fc1.*", "blocks.{i}.mlp.expand.*"),
        Line(f"{block}.mlp.fc2.*", "blocks.{i}.mlp.contract.*"),
        *gated,
        Line(f"{block}.layer_scale2.lambda1", "blocks.{i}.scale2.scale"),
    )


_FIRST = {4: "encoder.layer.0.attention.attention.query.weight", 5: "layers.0.attention.q_proj.weight"}
_FIRST_OF_DINOV2 = {4: _FIRST[4], 5: "encoder.layer.0.attention.q_proj.weight"}


def _resized(tensors: StateDict) -> dict[str, Any]:
    """The config section of a ViT with the position resizing of transformers: antialiased if it has registers."""
    sections = describe(tensors)
    if "registers" not in sections["backbone"]:
        sections["backbone"]["position_resizing"] = "bicubic"
    return sections


def _vit_config(sections: Mapping[str, Any], state: StateDict, classes: Sequence[Class]) -> dict[str, dict[str, Any]]:
    options = sections["backbone"]
    if any(key in options for key in _NOT_IN_VIT) or not options.get("class_token", True):
        return {}
    distilled = bool(options.get("distillation_token"))
    kind, name = ("deit", "DeiTModel") if distilled else ("vit", "ViTModel")
    config = _encoder(options, state) | {
        "model_type": kind,
        "architectures": [name],
        "intermediate_size": len(state["blocks.0.mlp.expand.bias"]),
    }
    return {"config.json": config}


def _dinov2_config(
    sections: Mapping[str, Any], state: StateDict, classes: Sequence[Class]
) -> dict[str, dict[str, Any]]:
    options = sections["backbone"]
    if "qk_norm" in options or "stem" in options or options.get("distillation_token"):
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


def _of_vit(
    name: str, prefix: str, version: int, marks: tuple[str, ...] = (), halves: bool = False
) -> CheckpointLayout:
    lines = _vit(prefix, version)
    tokens = tuple(f"{prefix}embeddings.{token}" for token in ("cls_token", "distillation_token"))
    positions = added_to_tokens(f"{prefix}embeddings.position_embeddings", tokens)
    return CheckpointLayout(
        name=name if version == 4 else f"{name}-v5",
        part="backbone",
        marks=(tokens[0], f"{prefix}{_FIRST[version]}", *marks),
        lines=lines,
        describe=_resized,
        no_effect=_no_effect(prefix),
        rearrange=positions,
        usage_options=USAGE_OPTIONS,
        conventions=CONVENTIONS,
        mean=_HALVES if halves else None,
        std=_HALVES if halves else None,
        config_files=None if name == "transformers-mae" else _vit_config,
    )


def _of_dinov2(name: str, prefix: str, version: int) -> CheckpointLayout:
    lines = _dinov2(prefix, version)
    token, table = (f"{prefix}embeddings.{one}" for one in ("cls_token", "position_embeddings"))
    gated: dict[str, tuple[str, ...]] = {"fc1": ("weights_in",), "fc2": ("weights_out",)}
    if version == 5:
        gated = {"fc1": ("gate_proj", "up_proj"), "fc2": ("down_proj",)}
    rearrange = with_gated_export(added_to_tokens(table, (token,)), gated)
    return CheckpointLayout(
        name=name if version == 4 else f"{name}-v5",
        part="backbone",
        marks=(token, f"{prefix}{_FIRST_OF_DINOV2[version]}", f"{prefix}encoder.layer.0.layer_scale1.lambda1"),
        lines=lines,
        describe=_resized,
        no_effect=_no_effect(prefix),
        rearrange=rearrange,
        usage_options=USAGE_OPTIONS,
        conventions=CONVENTIONS,
        config_files=_dinov2_config,
    )


VIT = _of_vit("transformers-vit", "", 4, halves=True)
VIT_CLASSIFIER = _of_vit("transformers-vit-classifier", "vit.", 4, halves=True)
MAE = _of_vit("transformers-mae", "vit.", 4, marks=("decoder.mask_token",))
DEIT = _of_vit("transformers-deit", "", 4, marks=("embeddings.distillation_token",))
DEIT_CLASSIFIER = _of_vit("transformers-deit-classifier", "deit.", 4)
DINOV2 = _of_dinov2("transformers-dinov2", "", 4)
DINOV2_CLASSIFIER = _of_dinov2("transformers-dinov2-classifier", "dinov2.", 4)
DINOV2_REGISTERS_CLASSIFIER = _of_dinov2("transformers-dinov2-registers-classifier", "dinov2_with_registers.", 4)
VIT_V5 = _of_vit("transformers-vit", "", 5, halves=True)
VIT_CLASSIFIER_V5 = _of_vit("transformers-vit-classifier", "vit.", 5, halves=True)
MAE_V5 = _of_vit("transformers-mae", "vit.", 5, marks=("decoder.mask_token",))
DEIT_V5 = _of_vit("transformers-deit", "", 5, marks=("embeddings.distillation_token",))
DEIT_CLASSIFIER_V5 = _of_vit("transformers-deit-classifier", "deit.", 5)
DINOV2_V5 = _of_dinov2("transformers-dinov2", "", 5)
DINOV2_CLASSIFIER_V5 = _of_dinov2("transformers-dinov2-classifier", "dinov2.", 5)
DINOV2_REGISTERS_CLASSIFIER_V5 = _of_dinov2("transformers-dinov2-registers-classifier", "dinov2_with_registers.", 5)
