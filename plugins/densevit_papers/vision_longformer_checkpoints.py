"""Checkpoints of microsoft/vision-longformer with relative positions."""

import math
import re
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from densevit.errors import WeightsError
from densevit.interfaces import (
    CheckpointLayout,
    Licences,
    Line,
    OtherKeys,
    Publishing,
    Rearrangement,
    SpecialTensors,
    StateDict,
)
from densevit.layouts import TOKENS, count
from densevit_papers.vision_longformer import VARIANTS

_TABLE, _TO_TOKENS, _AMONG = (
    "attn.local_relative_position_bias_table",
    "attn.g2l_relative_position_bias",
    "attn.g2g_relative_position_bias",
)


def _numbered(state: StateDict) -> StateDict:
    """Names modules by stage and block, and gives full attention the tensors of windowed attention.

    In checkpoints one index numbers patches (0), attention (odd) and MLPs (even). A stage of full attention has one
    projection in place of two, and a bias table of the offsets in its grid; a smaller table is extended by its border.
    """
    result: dict[str, Tensor] = {}
    side = math.isqrt(len(state[f"layer1.1.{_TABLE}"]))
    for key, x in state.items():
        match = re.fullmatch(r"layer(\d)\.(\d+)\.(.+)", key)
        if match is None:
            result[key] = x
            continue
        index = int(match[2])
        part = "patches" if index == 0 else f"{(index - 1) // 2}.{'attention' if index % 2 else 'mlp'}"
        prefix, name = f"stages.{int(match[1]) - 1}.{part}.", match[3]
        if name.startswith("attn.qkv."):
            size, parameter = len(x) // 3, name.removeprefix("attn.qkv.")
            result |= {f"{prefix}attn.query.{parameter}": x[:size], f"{prefix}attn.kv.{parameter}": x[size:]}
        elif name == _TO_TOKENS:
            among = state[key.replace(_TO_TOKENS, _AMONG)]
            result[f"{prefix}attn.token_bias"] = torch.cat([x, among.transpose(0, 1)])
        elif name == _TABLE:
            result[prefix + name] = _extended(x, side)
        elif name != _AMONG:
            result[prefix + name] = x
    return result


def _extended(table: Tensor, side: int) -> Tensor:
    """A table (s * s, heads) with its border repeated to side * side rows, if s is smaller."""
    table_side = math.isqrt(len(table))
    if table_side >= side:
        return table
    maps = F.pad(table.T.reshape(1, -1, table_side, table_side), ((side - table_side) // 2,) * 4, mode="replicate")
    return maps[0].flatten(1).T.contiguous()


def _joined(state: StateDict) -> StateDict:
    """Inverse of `_numbered`, with windowed attention in all stages."""
    result: dict[str, Tensor] = {}
    for key, x in state.items():
        match = re.fullmatch(r"stages\.(\d)\.(?:patches|(\d+)\.(attention|mlp))\.(.+)", key)
        if match is None:
            result[key] = x
            continue
        stage, block, part, name = match.groups()
        index = 0 if block is None else 2 * int(block) + (1 if part == "attention" else 2)
        prefix = f"layer{int(stage) + 1}.{index}."
        if name == "attn.token_bias":
            result |= {prefix + _TO_TOKENS: x[:2], prefix + _AMONG: x[2:].transpose(0, 1).contiguous()}
        elif "_global." not in name or f"stages.{stage}.patches.cls_token" in state:
            result[prefix + name] = x
    return result


def describe(tensors: StateDict) -> dict[str, Any]:
    """The config section of a ViL, from tensors with densevit's keys."""
    widths = tuple(len(tensors[f"stages.{i}.norm.weight"]) for i in range(4))
    blocks = tuple(count(tensors, rf"stages\.{i}\.blocks\.(\d+)\.norm1\.weight") for i in range(4))
    variant = next((name for name, sizes in VARIANTS.items() if (sizes.widths, sizes.blocks) == (widths, blocks)), None)
    if variant is None:
        variants = ", ".join(f"{name} {sizes.widths} {sizes.blocks}" for name, sizes in VARIANTS.items())
        raise WeightsError(f"A ViL of {widths} channels and {blocks} blocks is not a known variant: {variants}.")
    sides = [math.isqrt(len(tensors[f"stages.{i}.blocks.0.attention.offset_bias"])) for i in range(4)]
    if len(set(sides)) > 1:
        raise WeightsError(
            f"The bias tables of the four stages have {sides} rows of offsets; expected as many in each. Full "
            "attention on maps of more than two windows a side, as in fine-tuning on 384 pixels, is not supported."
        )
    options: dict[str, Any] = {"variant": variant, "window_size": (sides[0] + 1) // 4}
    tokens = tensors.get("stages.0.tokens")
    return {"backbone": {"name": "vision_longformer", **options, "global_tokens": 0 if tokens is None else len(tokens)}}


_STAGE, _TARGET = "stages.{s}.{b}", "stages.{s}.blocks.{b}"
AUTHORS = CheckpointLayout(
    name="vision-longformer",
    signature_keys=("layer1.0.proj.weight", "layer1.1.attn.kv.weight", f"layer4.1.{_TABLE}"),
    lines=(
        Line("stages.{s}.patches.proj.*", "stages.{s}.projection.*"),
        Line("stages.{s}.patches.norm_embed.*", "stages.{s}.norm.*"),
        Line("stages.{s}.patches.cls_token", "stages.{s}.tokens", TOKENS),
        Line(f"{_STAGE}.attention.norm.*", f"{_TARGET}.norm1.*"),
        Line(f"{_STAGE}.attention.attn.query.*", f"{_TARGET}.attention.qkv.*[0/3]"),
        Line(f"{_STAGE}.attention.attn.kv.*[0/2]", f"{_TARGET}.attention.qkv.*[1/3]"),
        Line(f"{_STAGE}.attention.attn.kv.*[1/2]", f"{_TARGET}.attention.qkv.*[2/3]"),
        Line(f"{_STAGE}.attention.attn.proj.*", f"{_TARGET}.attention.output.*"),
        Line(f"{_STAGE}.attention.{_TABLE}", f"{_TARGET}.attention.offset_bias"),
        Line(f"{_STAGE}.attention.attn.token_bias", f"{_TARGET}.attention.token_bias"),
        Line(f"{_STAGE}.mlp.norm.*", f"{_TARGET}.norm2.*"),
        Line(f"{_STAGE}.mlp.mlp.fc1.*", f"{_TARGET}.mlp.expand.*"),
        Line(f"{_STAGE}.mlp.mlp.fc2.*", f"{_TARGET}.mlp.contract.*"),
    ),
    describe=describe,
    other_keys=OtherKeys(prefixes=("module.",)),
    special=SpecialTensors(
        copies={
            f"{_STAGE}.attention.attn.{name}_global.*": f"{_STAGE}.attention.attn.{name}.*"
            for name in ("query", "kv", "proj")
        },
        rearrange=Rearrangement(_numbered, _joined),
        no_effect={
            "head.*": "the classification head",
            "norm.*": "a norm before the classification head",
            f"{_STAGE}.attention.attn.relative_position_index": "an index of the bias table",
        },
    ),
    publishing=Publishing(
        licences=Licences(
            "MIT",
            data="ImageNet",
            teacher="none",
            source="https://github.com/microsoft/vision-longformer/blob/c9ce386/LICENSE",
            date="2026-11-29",
        )
    ),
)
