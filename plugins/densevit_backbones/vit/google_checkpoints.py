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
    return (
        Line("cls", "class_token", TOKENS),
        Line("Transformer/posembed_input/pos_embedding", "position_table", GRID),
        Line("embedding/kernel", "stem.projection.weight", CONVOLUTION),
        Line("embedding/bias", "stem.projection.bias"),
        *_norm(f"{block}/LayerNorm_0", "blocks.{i}.norm1"),
        *(
            Line(f"{attention}/{name}/{tensor}", f"blocks.{{i}}.attention.qkv.{target}[{part}/3]", change)
            for part, name in enumerate(("query", "key", "value"))
            for tensor, target, change in (("kernel", "weight", TO_HEADS), ("bias", "bias", FLAT))
        ),
        Line(f"{attention}/out/kernel", "blocks.{i}.attention.output.weight", FROM_HEADS),
        Line(f"{attention}/out/bias", "blocks.{i}.attention.output.bias"),
        *_norm(f"{block}/LayerNorm_2", "blocks.{i}.norm2"),
        Line(f"{mlp}/Dense_0/kernel", "blocks.{i}.mlp.expand.weight", DENSE),
        Line(f"{mlp}/Dense_0/bias", "blocks.{i}.mlp.expand.bias"),
        Line(f"{mlp}/Dense_1/kernel", "blocks.{i}.mlp.contract.weight", DENSE),
        Line(f"{mlp}/Dense_1/bias", "blocks.{i}.mlp.contract.bias"),
        *_norm("Transformer/encoder_norm", "norm"),
        *_resnet(),
    )


def _norm(source: str, target: str) -> list[Line]:
    return [Line(f"{source}/scale", f"{target}.weight", FLAT), Line(f"{source}/bias", f"{target}.bias", FLAT)]


def _resnet() -> list[Line]:
    """Maps the keys of the hybrid's ResNet, which numbers blocks and units from 1."""
    units = [(b, u) for b, count in enumerate(HYBRID_BLOCKS) for u in range(count)]
    layers = {f"conv{i}": (f"gn{i}", f"conv{i}", f"norm{i}") for i in (1, 2, 3)}
    layers |= {"conv_proj": ("gn_proj", "downsample.0", "downsample.1")}
    return [
        Line("conv_root/kernel", "stem.conv.weight", CONVOLUTION),
        *_norm("gn_root", "stem.norm"),
        *(
            line
            for b, u in units
            for name, (norm, *parts) in layers.items()
            for line in (
                Line(f"block{b + 1}/unit{u + 1}/{name}/kernel", f"stem.stages.{b}.{u}.{parts[0]}.weight", CONVOLUTION),
                *_norm(f"block{b + 1}/unit{u + 1}/{norm}", f"stem.stages.{b}.{u}.{parts[1]}"),
            )
        ),
    ]


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
