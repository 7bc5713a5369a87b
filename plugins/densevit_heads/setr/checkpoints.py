"""mmsegmentation's SETR (Zheng et al. 2021): complete models with the naive, PUP or MLA decoder."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from densevit.interfaces import Change, CheckpointLayout, Class, Licences, Line, Publishing, SpecialTensors, StateDict
from densevit.layouts import GRID, TOKENS, added_to_tokens, find, part
from densevit_heads.parts.class_map_checkpoints import classes_of, label_maps
from densevit_heads.parts.convolution_checkpoints import conv_norm
from densevit_heads.setr.published_models import MODELS

_LICENCES = Licences(
    "Apache-2.0",
    "unknown",
    "ImageNet, ADE20K or Cityscapes",
    "none",
    "https://github.com/open-mmlab/mmsegmentation/blob/0032f0b/LICENSE",
    "2026-11-29",
)

_VIT = find("timm-vit")
_RECIPES = {150: "ade20k/setr_pup_vit_large", 19: "cityscapes/setr_pup_vit_large"}  # by the number of classes
_LEVELS = 4  # feature maps aggregated by the multi-level decoder
_NO_BIAS = "mmsegmentation 1.x has no bias in its patch embedding unless patch_bias=True"
_FEATURES = {24: {"upsampling": (10, 15, 20, 24), "mla": (6, 12, 18, 24)}}  # of ViT-L; tensors do not determine them
_BLOCK, _TARGET_BLOCK, _HEAD = "backbone.layers.{i}", "backbone.blocks.{i}", "heads.segmentation"


def _with_token(table: Tensor) -> Tensor:
    cells = GRID.inverse(table)
    return torch.cat([cells.new_zeros(1, 1, cells.shape[2]), cells], 1)


def _deepest_last(weight: Tensor) -> Tensor:
    """The classifier's input channels, by level, in reversed order."""
    return torch.cat(weight.chunk(_LEVELS, 1)[::-1], 1)


UNUSED_TOKEN = Change(lambda table: GRID.forward(table[:, 1:]), _with_token)
"""A position table whose first row is for an unused class token."""
LEVELS = Change(_deepest_last, _deepest_last)

_BACKBONE = (
    Line("backbone.patch_embed.projection.*", "backbone.stem.projection.*"),
    Line(f"{_BLOCK}.ln1.*", f"{_TARGET_BLOCK}.norm1.*"),
    Line(f"{_BLOCK}.attn.attn.in_proj_weight", f"{_TARGET_BLOCK}.attention.qkv.weight"),
    Line(f"{_BLOCK}.attn.attn.in_proj_bias", f"{_TARGET_BLOCK}.attention.qkv.bias"),
    Line(f"{_BLOCK}.attn.attn.out_proj.*", f"{_TARGET_BLOCK}.attention.output.*"),
    Line(f"{_BLOCK}.ln2.*", f"{_TARGET_BLOCK}.norm2.*"),
    Line(f"{_BLOCK}.ffn.layers.0.0.*", f"{_TARGET_BLOCK}.mlp.expand.*"),
    Line(f"{_BLOCK}.ffn.layers.1.*", f"{_TARGET_BLOCK}.mlp.contract.*"),
)


_UPSAMPLING = (
    Line("backbone.cls_token", "backbone.class_token", TOKENS),
    Line("backbone.pos_embed", "backbone.position_table", GRID),
    *_BACKBONE,
    Line("decode_head.norm.*", f"{_HEAD}.decode.norm.*"),
    *conv_norm("decode_head.up_convs.{i}.0", f"{_HEAD}.decode.convolutions.{{i}}", "bn"),
    Line("decode_head.conv_seg.*", f"{_HEAD}.decode.classifier.*"),
    Line("auxiliary_head.{n}.norm.*", f"{_HEAD}.auxiliary.{{n}}.norm.*"),
    *conv_norm("auxiliary_head.{n}.up_convs.{i}.0", f"{_HEAD}.auxiliary.{{n}}.convolutions.{{i}}", "bn"),
    Line("auxiliary_head.{n}.conv_seg.*", f"{_HEAD}.auxiliary.{{n}}.classifier.*"),
)


def _multi_level() -> tuple[Line, ...]:
    """The lines of a complete model with the MLA decoder.

    Its layers after the top-down sums, and the auxiliary heads, are numbered from the deepest level in the checkpoint,
    from the shallowest in the model.
    """
    return (
        Line("backbone.pos_embed", "backbone.position_table", UNUSED_TOKEN),
        *_BACKBONE,
        Line("neck.norm.{i}.*", f"{_HEAD}.decode.norms.{{i}}.*"),
        *conv_norm("neck.mla.channel_proj.{i}", f"{_HEAD}.decode.project.{{i}}", "bn"),
        *(
            line
            for level, number in enumerate(reversed(range(_LEVELS)))
            for line in (
                *conv_norm(f"neck.mla.feat_extract.{number}", f"{_HEAD}.decode.extract.{level}", "bn"),
                *conv_norm(f"decode_head.up_convs.{number}.{{i}}", f"{_HEAD}.decode.branches.{level}.{{i}}", "bn"),
                Line(f"auxiliary_head.{number}.conv_seg.*", f"{_HEAD}.auxiliary.{level}.*"),
            )
        ),
        Line("decode_head.conv_seg.weight", f"{_HEAD}.decode.classifier.weight", LEVELS),
        Line("decode_head.conv_seg.bias", f"{_HEAD}.decode.classifier.bias"),
    )


def _describe(tensors: StateDict) -> dict[str, Any]:
    head = part(tensors, f"{_HEAD}.")
    backbone = _VIT.describe(part(tensors, "backbone."))["backbone"] | {"position_resizing": "bilinear"}
    depth = sum(name.endswith(".norm1.weight") for name in tensors)
    heads = {name.split(".")[1] for name in head if name.startswith("auxiliary.")}
    section: dict[str, Any] = {"name": "setr", "auxiliary": list(range(1, len(heads) + 1)), "padded": "stretch"}
    if "decode.extract.0.0.weight" in head:
        width, branch_width = (len(head[f"decode.{layer}.0.weight"]) for layer in ("extract.0", "branches.0.0"))
        section |= {"decoder": "mla", "width": width, "branch_width": branch_width}
    else:
        kernel = head["decode.convolutions.0.0.weight"]
        section |= {"decoder": "pup" if kernel.shape[-1] == 3 else "naive", "width": len(kernel)}
    if depth in _FEATURES:
        backbone["features"] = _FEATURES[depth]["mla" if section["decoder"] == "mla" else "upsampling"]
    return {"backbone": backbone, "heads": {"segmentation": section}}


def recipe(sections: Mapping[str, Any], classes: Mapping[str, Sequence[Class]]) -> tuple[str, dict[str, Any]]:
    """The recipe of evaluation on ADE20K or Cityscapes, by the number of classes; for other classes ADE20K's, on label
    maps."""
    labels = classes.get("segmentation", ())
    if len(labels) in _RECIPES:
        return _RECIPES[len(labels)], {}
    return _RECIPES[150], label_maps(labels)


def _layout(
    name: str,
    signature_keys: tuple[str, ...],
    lines: tuple[Line, ...],
    special: SpecialTensors,
    variants: tuple[CheckpointLayout, ...] = (),
) -> CheckpointLayout:
    return CheckpointLayout(
        name=name,
        signature_keys=("backbone.layers.{i}.attn.attn.in_proj_weight", "decode_head.conv_seg.weight", *signature_keys),
        lines=lines,
        describe=_describe,
        classes=partial(classes_of, bias="decode_head.conv_seg.bias"),
        special=replace(special, zero_biases={"backbone.stem.projection.bias": _NO_BIAS}),
        options=replace(_VIT.options, project_defaults=(*_VIT.options.project_defaults, f"{_HEAD}.padded")),
        publishing=Publishing(recipe=recipe, licences=_LICENCES, files={"setr_*.pth": _LICENCES}, models=MODELS[name]),
        variants=variants,
    )


_POSITIONS = SpecialTensors(rearrange=added_to_tokens("backbone.pos_embed", ("backbone.cls_token",)))
_FIRST = ("decode_head.norm.weight", "decode_head.up_convs.0.0.conv.weight")
_LAST, _SECOND = "decode_head.up_convs.3.0.conv.weight", "auxiliary_head.{n}.up_convs.1.0.conv.weight"
_AUXILIARY = "heads of two 1x1 convolutions for an auxiliary loss"

NAIVE = _layout("mmseg-setr-naive", _FIRST, _UPSAMPLING, _POSITIONS)
NAIVE_ADE20K = _layout(
    "mmseg-setr-naive-ade20k",
    (*_FIRST, _SECOND),
    _UPSAMPLING,
    replace(
        _POSITIONS,
        no_effect={"auxiliary_head.*": _AUXILIARY},
        missing={f"{_HEAD}.auxiliary.*": f"the checkpoint has {_AUXILIARY}"},
    ),
)
MLA = _layout(
    "mmseg-setr-mla",
    ("neck.norm.{i}.weight", "neck.mla.channel_proj.{i}.conv.weight"),
    _multi_level(),
    SpecialTensors(no_effect={"backbone.cls_token": "a class token that is not used in attention"}),
)
PUP = _layout(
    "mmseg-setr",
    (*_FIRST, _LAST, "decode_head.up_convs.1.0.conv.weight"),
    _UPSAMPLING,
    _POSITIONS,
    (NAIVE, NAIVE_ADE20K, MLA),
)
