"""Infers the options of a ViT from its tensors."""

import math
from typing import Any

from densevit.errors import WeightsError
from densevit.interfaces import LayoutOptions, StateDict
from densevit.layouts import count
from densevit_backbones.vit.variants import HYBRID_BLOCKS, VARIANTS

STANDARDIZATION, RESIZING, GELU = "weight_standardization", "position_resizing", "gelu"
OPTIONS = LayoutOptions(
    runtime=("features", "feature_norm", "readout", RESIZING), project_defaults=(STANDARDIZATION, RESIZING, GELU)
)
"""The options that no layout of a ViT shows."""


def describe(tensors: StateDict) -> dict[str, Any]:
    """The config section of a ViT, from tensors with densevit's keys.

    Tensors do not determine the number of attention heads: the variant's is assumed.
    """
    width, depth = len(tensors["blocks.0.norm1.weight"]), count(tensors, r"blocks\.(\d+)\.norm1\.weight")
    variant = next((name for name, sizes in VARIANTS.items() if sizes.width == width), "")
    if not variant or depth > VARIANTS[variant].depth:
        variants = ", ".join(f"{name} {sizes.width}" for name, sizes in VARIANTS.items())
        raise WeightsError(f"A ViT of {width} channels and {depth} blocks is not a known variant: {variants}.")
    hybrid = "stem.conv.weight" in tensors
    stages = tuple(count(tensors, rf"stem\.stages\.{i}\.(\d+)\.conv1\.weight") for i in range(4))
    if hybrid and stages != (*HYBRID_BLOCKS, 0):
        raise WeightsError("The only supported hybrids are those with the first three stages of a ResNet-50.")
    patch = 16 if hybrid else tensors["stem.projection.weight"].shape[-1]
    options: dict[str, Any] = {"name": "vit", "variant": variant, "patch_size": patch}
    if hybrid:
        options["stem"] = "resnet"
    if "position_table" in tensors:
        options["image_size"] = patch * len(tensors["position_table"])
    elif "blocks.0.position_bias.table" in tensors:
        side = (math.isqrt(len(tensors["blocks.0.position_bias.table"])) + 1) // 2
        options |= {"positions": "relative", "image_size": patch * side}
    else:
        options["positions"] = "none"
    options |= {} if "class_token" in tensors else {"class_token": False}
    options |= {"distillation_token": True} if "distillation_token" in tensors else {}
    options |= {"registers": len(tensors["register_tokens"])} if "register_tokens" in tensors else {}
    options |= {"layer_scale": 1e-5} if "blocks.0.scale1.scale" in tensors else {}
    options |= {"qk_norm": True} if "blocks.0.attention.query_norm.weight" in tensors else {}
    wide, narrow = tensors["blocks.0.mlp.expand.weight"], tensors["blocks.0.mlp.contract.weight"]
    options |= {"swiglu": True} if len(wide) == 2 * narrow.shape[1] else {}
    if depth < VARIANTS[variant].depth:
        quarters = sorted({-(-depth * i // 4) for i in (1, 2, 3, 4)})
        options["features"] = tuple(quarters[-2:] if hybrid else quarters)
    return {"backbone": options | ({} if "norm.weight" in tensors else {"feature_norm": False})}


def describe_resized(tensors: StateDict, resizing: str) -> dict[str, Any]:
    """The config section of a ViT with the position resizing of a project's code, which antialiases if there are
    registers."""
    sections = describe(tensors)
    if "registers" not in sections["backbone"]:
        sections["backbone"][RESIZING] = resizing
    return sections
