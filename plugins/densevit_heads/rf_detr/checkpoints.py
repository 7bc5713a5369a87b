"""RF-DETR (roboflow/rf-detr) and LW-DETR (Atten4Vis/LW-DETR): complete models, the authors' and transformers'.

transformers writes RF-DETR with the authors' keys. The two projects differ only in the masks of proposals, which are
used for the loss only: transformers does not project their features. Padding and cells near the border rank last, as in
transformers' models; see `ProposalGroup`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from densevit.errors import WeightsError
from densevit.interfaces import (
    CheckpointLayout,
    Class,
    LayoutOptions,
    Licences,
    Line,
    OtherKeys,
    Publishing,
    SpecialTensors,
    StateDict,
)
from densevit.layouts import count, part
from densevit_heads.parts import projector_checkpoints as projector
from densevit_heads.parts.attention_checkpoints import deformable_attention, fused_attention
from densevit_heads.parts.detector_checkpoints import MASK_PARTS, class_rows, classes_of, id2label, mlp
from densevit_heads.rf_detr import backbone_checkpoints as vit
from densevit_heads.rf_detr.published_models import DIGESTS, MODELS

# The data: issue 439.
_RF_DETR = Licences(
    "Apache-2.0",
    "Apache-2.0",
    "Objects365, COCO",
    "none",
    "https://github.com/roboflow/rf-detr/blob/35ac6ab/README.md",
    "2026-11-29",
)
_RF_DETR_FILES = {"rf-detr-*.pt*": _RF_DETR, "hf:Roboflow/rf-detr-*": _RF_DETR}
_LW_DETR = Licences(
    "Apache-2.0", "Apache-2.0", "Objects365, COCO", "unknown", "https://huggingface.co/xbsu/LW-DETR", "2026-11-29"
)
_LW_DETR_FILES = dict.fromkeys(("LWDETR_*.pth", "hf:xbsu/LW-DETR*", "hf:AnnaZhang/lwdetr_*"), _LW_DETR)

HEAD = "heads.detection"
CLASS_ROWS = class_rows(no_object=False)
LAYER, GROUP = f"{HEAD}.decoder.{{i}}", f"{HEAD}.queries.groups.{{i}}"


def _labels(source: str, target: str) -> tuple[Line, ...]:
    return tuple(Line(f"{source}.{x}", f"{target}.{x}", CLASS_ROWS) for x in ("weight", "bias"))


def _shared(transformer: str, decoder_norm: str, offsets: str) -> tuple[Line, ...]:
    """Maps the keys that RF-DETR and LW-DETR share. transformer: its prefix. decoder_norm, offsets: the keys of these
    parts."""
    layer = f"{transformer}.decoder.layers.{{i}}"
    return (
        Line(f"{transformer}.enc_output.{{i}}.*", f"{GROUP}.project.*"),
        Line(f"{transformer}.enc_output_norm.{{i}}.*", f"{GROUP}.norm.*"),
        *_labels(f"{transformer}.enc_out_class_embed.{{i}}", f"{GROUP}.label_head"),
        *mlp(f"{transformer}.enc_out_bbox_embed.{{i}}", f"{GROUP}.box_head"),
        *deformable_attention(f"{layer}.cross_attn", f"{LAYER}.cross_attention"),
        *mlp(f"{transformer}.decoder.ref_point_head", f"{HEAD}.query_positions", 2),
        Line(f"{transformer}.decoder.{decoder_norm}.*", f"{HEAD}.decoder_norm.*"),
        Line(f"{offsets}.weight", f"{HEAD}.queries.offsets.weight"),
        *_labels("class_embed", f"{HEAD}.label_head"),
        *mlp("bbox_embed", f"{HEAD}.box_head"),
    )


def _lines() -> tuple[Line, ...]:
    layer, masks = "transformer.decoder.layers.{i}", f"{HEAD}.mask_branch"
    parts = {
        "norm1": "self_attention_norm", "norm2": "cross_attention_norm", "norm3": "ffn_norm",
        "linear1": "ffn.expand", "linear2": "ffn.contract",
    }  # fmt: skip
    return (
        *_shared("transformer", "norm", "refpoint_embed"),
        Line("query_feat.weight", f"{HEAD}.queries.contents.weight"),
        *fused_attention(f"{layer}.self_attn", f"{LAYER}.self_attention"),
        *(Line(f"{layer}.{name}.*", f"{LAYER}.{part}.*") for name, part in parts.items()),
        *(Line(f"segmentation_head.{name}.*", f"{masks}.{part}.*") for name, part in MASK_PARTS.items()),
        Line("segmentation_head.bias", f"{masks}.bias"),
    )


def _transformers_lines() -> tuple[Line, ...]:
    layer = "model.decoder.layers.{i}"
    parts = {
        "self_attn.q_proj": "self_attention.query", "self_attn.k_proj": "self_attention.key",
        "self_attn.v_proj": "self_attention.value", "self_attn.o_proj": "self_attention.output",
        "self_attn_layer_norm": "self_attention_norm", "cross_attn_layer_norm": "cross_attention_norm",
        "mlp.fc1": "ffn.expand", "mlp.fc2": "ffn.contract", "layer_norm": "ffn_norm",
    }  # fmt: skip
    return (
        *_shared("model", "layernorm", "model.reference_point_embed"),
        Line("model.query_feat.weight", f"{HEAD}.queries.contents.weight"),
        *(Line(f"{layer}.{name}.*", f"{LAYER}.{part}.*") for name, part in parts.items()),
    )


LINES = _lines()
TRANSFORMERS_LINES = _transformers_lines()  # of LW-DETR

_HEADS = (f"{HEAD}.transformer.num_heads", f"{HEAD}.cross_attention_heads", f"{HEAD}.num_points")


def describe(tensors: StateDict) -> dict[str, Any]:
    """The config sections of a model, from tensors with densevit's keys.

    Tensors do not determine the numbers of attention heads, which have 32 channels in self-attention and 16 in
    deformable attention in all releases; the product of the latter's and the points is known.
    """
    patch_size = tensors["backbone.stem.projection.weight"].shape[-1]
    backbone = vit.describe(part(tensors, "backbone."))
    neck = projector.describe(part(tensors, "necks.detection."), patch_size)
    groups = count(tensors, r"heads\.detection\.queries\.groups\.(\d+)\..*")
    queries, width = tensors[f"{HEAD}.queries.contents.weight"].shape
    rows = len(tensors[f"{HEAD}.decoder.0.cross_attention.weights.bias"])
    head = {
        "name": "rf_detr_instance" if f"{HEAD}.mask_branch.bias" in tensors else "rf_detr",
        "neck": neck,
        "num_queries": queries // groups,
        "transformer": {
            "width": width,
            "num_heads": max(1, width // 32),
            "encoder_layers": 0,
            "decoder_layers": count(tensors, r"heads\.detection\.decoder\.(\d+)\..*"),
            "feedforward": len(tensors[f"{HEAD}.decoder.0.ffn.expand.bias"]),
            "dropout": 0.0,
        },
        "cross_attention_heads": max(1, width // 16),
        "num_points": rows // (max(1, width // 16) * len(neck["pyramid_strides"])),
        "num_groups": groups,
    }
    return {"backbone": backbone, "heads": {"detection": head}}


def recipe(sections: Mapping[str, Any], classes: Mapping[str, Sequence[Class]]) -> tuple[str, dict[str, Any]]:
    """The recipe of training and evaluation on COCO at the model's image size; with masks, of fine-tuning.

    The position table determines the size, except in models of 14-pixel patches, whose table is DINOv2's.
    """
    backbone = sections["backbone"]
    size = 560 if backbone["patch_size"] == 14 else backbone["image_size"]
    name = next((name for name, side in (("nano", 384), ("small", 512), ("medium", 576)) if size <= side), "large")
    masks = sections["heads"]["detection"]["name"] == "rf_detr_instance"
    return "start/rf_detr_masks" if masks else f"coco/rf_detr_{name}", {"data": {"image_size": size}}


def _config(sections: Mapping[str, Any], state: StateDict, classes: Sequence[Class]) -> dict[str, dict[str, Any]]:
    backbone, head = sections["backbone"], sections["heads"]["detection"]
    neck, transformer = head["neck"], head["transformer"]
    one_level = tuple(neck["pyramid_strides"]) == (backbone["patch_size"],)
    if not one_level or neck["norm"] != "layer" or "registers" in backbone:
        return {}
    width = len(state["backbone.blocks.0.norm1.weight"])
    depth = count(state, r"backbone\.blocks\.(\d+)\.norm1\.weight")
    features = backbone.get("features") or [depth * i // 4 for i in range(1, 5)]
    config: dict[str, Any] = {
        "model_type": "rf_detr",
        "architectures": [
            "RfDetrForInstanceSegmentation" if head["name"] == "rf_detr_instance" else "RfDetrForObjectDetection"
        ],
        "backbone_config": {
            "model_type": "rf_detr_dinov2",
            "hidden_size": width,
            "num_hidden_layers": depth,
            "num_attention_heads": vit.VARIANTS[backbone["variant"]][2],
            "image_size": backbone["image_size"],
            "patch_size": backbone["patch_size"],
            "num_windows": backbone["num_windows"],
            "out_indices": [*features],
            "window_block_indexes": [i for i in range(features[-1] + 1) if i not in features],
        },
        "hidden_expansion": 0.5,
        "c2f_num_blocks": neck["num_blocks"],
        "layer_norm_eps": neck.get("norm_eps", 1e-6),
        "d_model": transformer["width"],
        "dropout": transformer["dropout"],
        "decoder_layers": transformer["decoder_layers"],
        "decoder_ffn_dim": transformer["feedforward"],
        "decoder_n_points": head["num_points"],
        "decoder_self_attention_heads": transformer["num_heads"],
        "decoder_cross_attention_heads": head["cross_attention_heads"],
        "num_queries": head["num_queries"],
        "group_detr": head["num_groups"],
        "intermediate_size": 4 * transformer["width"],
    }
    return {"config.json": config | id2label(classes)}


def _classes(state: StateDict, metadata: Mapping[str, Any]) -> dict[str, tuple[Class, ...]]:
    """metadata: `classes`, by row; the authors' files name no class for the last row, which is not trained."""
    rows, names = len(state["class_embed.bias"]), metadata.get("classes", ())
    return {"detection": classes_of(rows + 1, [*names, "none"] if len(names) == rows - 1 else names)}


def _saved(state: StateDict, metadata: Mapping[str, Any]) -> dict[str, Any]:
    """From config.json, or the `model_config` of the authors' files, if there is one."""
    options = {**vit.saved(metadata), **projector.saved(metadata)}
    config, model_config = metadata.get("config", {}), metadata.get("model_config", {})
    keys = ("decoder_self_attention_heads", "decoder_cross_attention_heads", "decoder_n_points")
    options |= {option: config[key] for option, key in zip(_HEADS, keys, strict=True) if key in config}
    names = ("sa_nheads", "ca_nheads", "dec_n_points", "num_windows", "out_feature_indexes")
    saved = {option: model_config.get(name) for option, name in zip((*_HEADS, *vit.UNSAVED), names, strict=True)}
    return options | {option: value for option, value in saved.items() if value is not None}


_IMPLIED = {
    "activation_function": ("silu",), "decoder_activation_function": ("relu",), "attention_bias": (True,),
    "segmentation_head_activation_function": ("gelu",), "mask_downsample_ratio": (4,),
    "backbone_config.use_swiglu_ffn": (False,), "backbone_config.apply_layernorm": (True,),
}  # fmt: skip


def _licences(state: StateDict, metadata: Mapping[str, Any]) -> Licences:
    """Raises WeightsError for XL and 2XL for detection, whose patch size is 20."""
    if state[_PATCHES].shape[-1] == 20:
        raise WeightsError(
            "An RF-DETR of patch size 20, as XL and 2XL for detection, whose licence is PML 1.0, not Apache-2.0: they "
            "are not supported. Use rf-detr-large."
        )
    return _RF_DETR


def _is_base(state: StateDict, metadata: Mapping[str, Any]) -> bool:
    """Whether the model is RF-DETR base or the first large model, whose last feature comes from the last block but
    one."""
    return state[_PATCHES].shape[-1] == 14


_PATCHES = "backbone.0.encoder.encoder.embeddings.patch_embeddings.projection.weight"
_SIGNATURE_KEYS = (  # of the authors' models
    "backbone.0.projector.stages.0.0.cv1.conv.weight",
    "transformer.decoder.layers.0.cross_attn.sampling_offsets.weight",
    "transformer.enc_output.0.weight",
    "refpoint_embed.weight",
    "query_feat.weight",
)
RF_DETR = CheckpointLayout(
    name="rf-detr",
    signature_keys=(_PATCHES, *_SIGNATURE_KEYS),
    lines=(*vit.RF_DETR, *projector.AUTHORS, *LINES),
    describe=describe,
    classes=_classes,
    special=SpecialTensors(
        no_effect={**vit.RF_DETR_NO_EFFECT, "_kp_active_mask": "no keypoints"}, rearrange=vit.RF_DETR_REARRANGE
    ),
    options=LayoutOptions(
        unsaved=(*vit.UNSAVED, *projector.UNSAVED, *_HEADS), saved=_saved, implied=_IMPLIED, runtime=("drop_path",)
    ),
    publishing=Publishing(
        licences=_licences,
        files=_RF_DETR_FILES,
        digests=DIGESTS,
        models=MODELS,
        config_files=_config,
        recipe=recipe,
    ),
    fits=lambda state, metadata: not _is_base(state, metadata),
)
RF_DETR = replace(
    RF_DETR,
    variants=(
        replace(
            RF_DETR,
            name="rf-detr-base",
            special=replace(RF_DETR.special, no_effect={**RF_DETR.special.no_effect, **vit.RF_DETR_BASE_NO_EFFECT}),
            fits=_is_base,
        ),
    ),
)
LW_DETR = replace(
    RF_DETR,
    name="lw-detr",
    signature_keys=("backbone.0.encoder.pos_embed", *_SIGNATURE_KEYS),
    lines=(*vit.LW_DETR, *projector.AUTHORS, *LINES),
    special=SpecialTensors(),
    publishing=Publishing(licences=_LW_DETR, files=_LW_DETR_FILES),
    variants=(),
    fits=None,
)
TRANSFORMERS_LW_DETR = replace(
    LW_DETR,
    name="transformers-lw-detr",
    signature_keys=(
        "model.backbone.backbone.embeddings.position_embeddings",
        "model.backbone.projector.scale_layers.0.layer_norm.weight",
        "model.decoder.layers.0.cross_attn.sampling_offsets.weight",
        "model.reference_point_embed.weight",
    ),
    lines=(*vit.TRANSFORMERS_LW_DETR, *projector.TRANSFORMERS_LW_DETR, *TRANSFORMERS_LINES),
    other_keys=OtherKeys(spellings=vit.TRANSFORMERS_LW_DETR_SPELLINGS),
    publishing=Publishing(licences=_LW_DETR, files=_LW_DETR_FILES),
)
