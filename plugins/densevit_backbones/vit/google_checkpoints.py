"""Google's ViT files (google-research/vision_transformer, `.npz`), including the hybrid R50 + ViT-B/16.

Axes are in JAX's order: kernels have outputs last, and attention kernels have an axis of heads.
"""

from collections.abc import Callable
from typing import Any

from torch import Tensor

from densevit.interfaces import Change, CheckpointLayout, Line, OtherKeys, Publishing, SpecialTensors, StateDict
from densevit.layouts import GRID, TOKENS, added_to_tokens
from densevit_backbones import licences
from densevit_backbones.vit.inferred_options import GELU, OPTIONS, STANDARDIZATION, describe
from densevit_backbones.vit.variants import HYBRID_BLOCKS


def _read_only(tensor: Tensor) -> Tensor:
    raise ValueError("this layout can only be read, not exported")


def _change(into: Callable[[Tensor], Tensor]) -> Change:
    return Change(into, _read_only)


CONVOLUTION = _change(lambda kernel: kernel.permute(3, 2, 0, 1).contiguous())
"""(H, W, I, O) -> (O, I, H, W)."""
DENSE = _change(lambda kernel: kernel.T.contiguous())
"""(I, O) -> (O, I)."""
TO_HEADS = _change(lambda kernel: kernel.flatten(1).T.contiguous())
"""(C, heads, D) -> (heads * D, C)."""
FROM_HEADS = _change(lambda kernel: kernel.flatten(0, 1).T.contiguous())
"""(heads, D, C) -> (C, heads * D)."""
FLAT = _change(lambda values: values.flatten())
"""(heads, D) or (1, 1, 1, C) -> (heads * D) or (C)."""


def _lines() -> tuple[Line, ...]:
    block = "Transformer/encoderblock_{i}"
    attention, mlp = f"{block}/MultiHeadDotProductAttention_1", f"{block}/MlpBlock_3"
    lines = [
        Line("cls", "class_token", TOKENS),
        Line("Transformer/posembed_input/pos_embedding", "position_table", GRID),
        Line("embedding/kernel", "stem.projection.weight", CONVOLUTION),
        Line("embedding/bias", "stem.projection.bias"),
        *_norm(f"{block}/LayerNorm_0", "blocks.{i}.norm1"),
    ]
    for part, name in enumerate(("query", "key", "value")):
        lines.append(Line(f"{attention}/{name}/kernel", f"blocks.{{i}}.attention.qkv.weight[{part}/3]", TO_HEADS))
        lines.append(Line(f"{attention}/{name}/bias", f"blocks.{{i}}.attention.qkv.bias[{part}/3]", FLAT))
    lines += [
        Line(f"{attention}/out/kernel", "blocks.{i}.attention.output.weight", FROM_HEADS),
        Line(f"{attention}/out/bias", "blocks.{i}.attention.output.bias"),
        *_norm(f"{block}/LayerNorm_2", "blocks.{i}.norm2"),
        Line(f"{mlp}/Dense_0/kernel", "blocks.{i}.mlp.expand.weight", DENSE),
        Line(f"{mlp}/Dense_0/bias", "blocks.{i}.mlp.expand.bias"),
        Line(f"{mlp}/Dense_1/kernel", "blocks.{i}.mlp.contract.weight", DENSE),
        Line(f"{mlp}/Dense_1/bias", "blocks.{i}.mlp.contract.bias"),
        *_norm("Transformer/encoder_norm", "norm"),
    ]
    return (*lines, *_resnet())


def _norm(source: str, target: str) -> list[Line]:
    return [Line(f"{source}/scale", f"{target}.weight", FLAT), Line(f"{source}/bias", f"{target}.bias", FLAT)]


def _resnet() -> list[Line]:
    """Maps the keys of the hybrid's ResNet, which numbers blocks and units from 1."""
    lines = [Line("conv_root/kernel", "stem.conv.weight", CONVOLUTION)]
    lines += _norm("gn_root", "stem.norm")
    for b, units in enumerate(HYBRID_BLOCKS):
        for u in range(units):
            source, target = f"block{b + 1}/unit{u + 1}", f"stem.stages.{b}.{u}"
            for i in (1, 2, 3):
                lines.append(Line(f"{source}/conv{i}/kernel", f"{target}.conv{i}.weight", CONVOLUTION))
                lines += _norm(f"{source}/gn{i}", f"{target}.norm{i}")
            lines.append(Line(f"{source}/conv_proj/kernel", f"{target}.downsample.0.weight", CONVOLUTION))
            lines += _norm(f"{source}/gn_proj", f"{target}.downsample.1")
    return lines


def _vit(tensors: StateDict) -> dict[str, Any]:
    """The config section of a ViT with flax's GELU; a hybrid's weights are divided by std + 1e-5.

    As in `vit_jax/models_vit.py` and `vit_jax/models_resnet.py`.
    """
    sections = describe(tensors)
    sections["backbone"][GELU] = "tanh"
    if sections["backbone"].get("stem") == "resnet":
        sections["backbone"][STANDARDIZATION] = "std"
    return sections


VIT = CheckpointLayout(
    name="google-vit",
    signature_keys=(
        "embedding/kernel",
        "Transformer/encoder_norm/scale",
        "Transformer/encoderblock_0/MultiHeadDotProductAttention_1/query/kernel",
    ),
    lines=_lines(),
    describe=_vit,
    other_keys=OtherKeys(
        prefixes=("opt/target/",),  # in training checkpoints
    ),
    special=SpecialTensors(
        no_effect={
            "head/*": "the classification head",
            "pre_logits/*": "a layer of the classification head",
            "opt/state/*": "the optimiser's state",
        },
        rearrange=added_to_tokens("Transformer/posembed_input/pos_embedding", ("cls",)),
    ),
    options=OPTIONS,
    publishing=Publishing(mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5), licences=licences.VIT),
)
