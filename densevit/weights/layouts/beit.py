"""BEiT-style encoders (microsoft/unilm: BEiT, BEiT v2; EVA): what `vit` can compute exactly, and why not the rest.

The released BEiT and BEiT v2 add a bias for each offset of two patches to attention's logits. `vit` has none, so that
only those trained with absolute positions in place of it (`use_abs_pos_emb` in their code; EVA) can be taken over.
"""

from dataclasses import replace
from typing import Any

from densevit.errors import WeightsError
from densevit.weights.layout import ZEROS, Layout, Line, State
from densevit.weights.layouts.timm import VIT
from densevit.weights.variants import described, vit

_BIAS = "blocks.{i}.attention.qkv.bias"
_LINES = (
    Line("blocks.{i}.attn.q_bias", f"{_BIAS}[0/3]"),
    Line(ZEROS, f"{_BIAS}[1/3]"),
    Line("blocks.{i}.attn.v_bias", f"{_BIAS}[2/3]"),
    *VIT.lines,
)
_of_absolute_positions = described(vit, _LINES, VIT.rearrange)


def _describe(state: State) -> dict[str, Any]:
    tables = [key for key in state if key.endswith("relative_position_bias_table")]
    if tables:
        raise WeightsError(
            f"{tables[0]}: this encoder adds a bias for each offset of two patches to attention's logits, and the "
            "backbone 'vit' has no such bias: without it features would not be those that were trained. Expected one "
            "with absolute positions, such as ViT, DeiT, MAE or DINOv2."
        )
    return _of_absolute_positions(state)


def _refuse_eva02(state: State) -> dict[str, Any]:
    raise WeightsError(
        "EVA-02 has rotary positions beside learned ones and, but for its smallest, norms inside attention and "
        "perceptrons; the backbone 'vit' has neither. Expected an encoder such as ViT, DeiT, MAE or DINOv2."
    )


_MARKS = ("patch_embed.proj.weight", "blocks.0.norm1.weight", "blocks.0.attn.proj.weight", "blocks.0.attn.q_bias")

BEIT = replace(
    VIT,
    name="beit",
    marks=(*_MARKS, "blocks.0.attn.v_bias", "blocks.0.attn.qkv.weight", "blocks.0.mlp.fc1.weight"),
    lines=_LINES,
    describe=_describe,
    no_effect={
        **VIT.no_effect,
        "lm_head.*": "what names hidden patches in pre-training",
        "mask_token": "what stands for hidden patches in pre-training",
        "blocks.{i}.attn.relative_position_index": "numbers that follow from the grid",
        "rel_pos_bias.relative_position_index": "numbers that follow from the grid",
    },
    mean=(0.5, 0.5, 0.5),
    std=(0.5, 0.5, 0.5),
)
EVA02 = Layout(
    name="eva02",
    part="backbone",
    marks=(*_MARKS, "blocks.0.mlp.w3.weight"),
    lines=(),
    describe=_refuse_eva02,
)
LAYOUTS = (BEIT, EVA02)
