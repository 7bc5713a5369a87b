"""BEiT-style encoders (microsoft/unilm, timm): relative position biases, or position embeddings as in ViT."""

import re
from dataclasses import replace
from typing import Any

from densevit.errors import WeightsError
from densevit.interfaces import (
    ZEROS,
    CheckpointLayout,
    Licences,
    Line,
    Publishing,
    Rearrangement,
    SpecialTensors,
    StateDict,
)
from densevit_backbones.licences import TIMM_FILES
from densevit_backbones.vit.inferred_options import describe
from densevit_backbones.vit.timm_checkpoints import ENCODER, POSITIONS

_LICENCES = Licences(
    "MIT",
    "MIT",
    "ImageNet",
    "DALL-E's tokenizer",
    "https://github.com/microsoft/unilm/blob/0253688/beit/README.md",
    "2026-11-29",
)
_FILES = {"beit_*.pth": _LICENCES, "beitv2_*.pth": replace(_LICENCES, teacher="unknown"), **TIMM_FILES}
_EVA = Licences(
    "MIT", "unknown", "ImageNet-21k", "unknown", "https://github.com/baaivision/EVA/blob/5623d08/LICENSE", "2026-11-29"
)

_BIAS = "blocks.{i}.attention.qkv.bias"
_TABLE = "blocks.{i}.attn.relative_position_bias_table"
_SHARED = "rel_pos_bias.relative_position_bias_table"  # in pre-training, shared by all blocks


def _unshared(state: StateDict) -> StateDict:
    """Copies a shared table to each block."""
    if _SHARED not in state:
        return POSITIONS.forward(state)
    blocks = {match[1] for key in state if (match := re.match(r"blocks\.(\d+)\.", key))}
    tables = {name: state[_SHARED] + state.get(name, 0) for name in (_TABLE.format(i=i) for i in blocks)}
    return POSITIONS.forward({**{key: x for key, x in state.items() if key != _SHARED}, **tables})


_LINES = (
    Line("blocks.{i}.attn.q_bias", f"{_BIAS}[0/3]"),
    Line(ZEROS, f"{_BIAS}[1/3]"),
    Line("blocks.{i}.attn.v_bias", f"{_BIAS}[2/3]"),
    Line(_TABLE, "blocks.{i}.position_bias.table"),
    Line("blocks.{i}.gamma_1", "blocks.{i}.scale1.scale"),
    Line("blocks.{i}.gamma_2", "blocks.{i}.scale2.scale"),
    *ENCODER.lines,
)


def _resized(tensors: StateDict) -> dict[str, Any]:
    """The config section of an encoder whose relative positions are resized bicubically, like position embeddings."""
    sections = describe(tensors)
    if sections["backbone"].get("positions") == "relative":
        sections["backbone"]["position_resizing"] = "bicubic"
    return sections


def _refuse_eva02(state: StateDict) -> dict[str, Any]:
    raise WeightsError(
        "EVA-02 has rotary and learned positions together and, except in its smallest model, norms inside attention "
        "and MLPs; the backbone 'vit' supports neither. Expected an encoder such as ViT, DeiT, MAE or DINOv2."
    )


_SIGNATURE_KEYS = (
    "patch_embed.proj.weight",
    "blocks.0.norm1.weight",
    "blocks.0.attn.proj.weight",
    "blocks.0.attn.q_bias",
)

EVA02 = CheckpointLayout(
    name="eva02",
    signature_keys=(*_SIGNATURE_KEYS, "blocks.0.mlp.w3.weight"),
    lines=(),
    describe=_refuse_eva02,
    publishing=Publishing(licences=_EVA, files={"eva02_*.pt": _EVA, **TIMM_FILES}),
)
BEIT = replace(
    ENCODER,
    name="beit",
    signature_keys=(*_SIGNATURE_KEYS, "blocks.0.attn.v_bias", "blocks.0.attn.qkv.weight", "blocks.0.mlp.fc1.weight"),
    lines=_LINES,
    describe=_resized,
    special=SpecialTensors(
        no_effect={
            **ENCODER.special.no_effect,
            "cls_pt_*": "layers used only in BEiT v2's pre-training",
            "lm_head.*": "the prediction head of pre-training",
            "mask_token": "the mask token of pre-training",
            "blocks.{i}.attn.relative_position_index": "derived from the grid size",
            "rel_pos_bias.relative_position_index": "derived from the grid size",
        },
        rearrange=Rearrangement(_unshared, POSITIONS.inverse),
    ),
    publishing=Publishing(mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5), licences=_LICENCES, files=_FILES),
    variants=(EVA02,),
)
