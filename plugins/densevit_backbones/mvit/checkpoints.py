"""MViTv2: timm's and the official release (facebookresearch/mvit), which numbers blocks across all stages."""

import re
from collections.abc import Callable
from typing import Any

from densevit.errors import WeightsError
from densevit.interfaces import (
    Change,
    CheckpointLayout,
    LayoutOptions,
    Licences,
    Line,
    OtherKeys,
    Publishing,
    Rearrangement,
    SpecialTensors,
    StateDict,
)
from densevit_backbones import licences
from densevit_backbones.mvit.inferred_options import describe
from densevit_backbones.mvit.variants import VARIANTS

_LICENCES = Licences(
    "Apache-2.0",
    "Apache-2.0",
    "ImageNet",
    "none",
    "https://github.com/facebookresearch/mvit/blob/dfbdfdf/README.md",
    "2026-11-29",
)
_TIMM = Publishing(licences=licences.TIMM, files=licences.TIMM_FILES)

_MISSING = {f"feature_norms.{i}.*": "a norm of the stage's feature map, which a classifier lacks" for i in range(3)}


_FLAT = Change(lambda kernel: kernel.squeeze(2) if kernel.ndim == 5 else kernel, lambda kernel: kernel)
"""Removes the time axis of a kernel trained as a video model with one frame."""


def _block(source: str, target: str) -> list[Line]:
    """Maps the keys of a block, except its shortcut projections."""
    names = (("q", "query"), ("k", "key"), ("v", "value"))
    return [
        Line(f"{source}.norm1.*", f"{target}.norm1.*"),
        *(Line(f"{source}.attn.qkv.*[{i}/3]", f"{target}.attention.{name}.*") for i, (_, name) in enumerate(names)),
        *(Line(f"{source}.attn.pool_{q}.weight", f"{target}.attention.pool_{name}.weight", _FLAT) for q, name in names),
        *(Line(f"{source}.attn.norm_{q}.*", f"{target}.attention.pool_{name}.norm.*") for q, name in names),
        Line(f"{source}.attn.rel_pos_h", f"{target}.attention.relative_positions.rows"),
        Line(f"{source}.attn.rel_pos_w", f"{target}.attention.relative_positions.columns"),
        Line(f"{source}.attn.proj.*", f"{target}.attention.output.*"),
        Line(f"{source}.norm2.*", f"{target}.norm2.*"),
        Line(f"{source}.mlp.fc1.*", f"{target}.mlp.expand.*"),
        Line(f"{source}.mlp.fc2.*", f"{target}.mlp.contract.*"),
    ]


_LINES = (
    Line("cls_token", "class_token"),
    Line("patch_embed.proj.weight", "patch_embed.weight", _FLAT),
    Line("patch_embed.proj.bias", "patch_embed.bias"),
    Line("norm.*", "feature_norms.3.*"),
    *_block("stages.{s}.blocks.{b}", "stages.{s}.{b}"),
    Line("stages.{s}.blocks.{b}.shortcut_proj_attn.*", "stages.{s}.{b}.shortcut1.*"),
    Line("stages.{s}.blocks.{b}.shortcut_proj_mlp.*", "stages.{s}.{b}.shortcut2.*"),
)


_DEPTHS = {sum(variant.blocks): variant for name, variant in VARIANTS[2].items() if name != "nano"}


def _staged(state: StateDict) -> StateDict:
    """Numbers the blocks by stage, and renames their shortcut projections to timm's names."""
    blocks = {int(key.split(".")[1]) for key in state if key.startswith("blocks.")}
    variant = _DEPTHS.get(len(blocks))
    if variant is None:
        raise WeightsError(
            f"An MViTv2 of {len(blocks)} blocks; expected a released one, of {', '.join(map(str, sorted(_DEPTHS)))}."
        )
    places = [f"stages.{s}.blocks.{b}" for s, count in enumerate(variant.blocks) for b in range(count)]
    shortcut = "shortcut_proj_attn" if variant.widens == "attention" else "shortcut_proj_mlp"

    def staged(key: str) -> str:
        if not key.startswith("blocks."):
            return key
        _, number, rest = key.split(".", 2)
        rest = f"{shortcut}.{rest.removeprefix('proj.')}" if rest.startswith("proj.") else rest
        return f"{places[int(number)]}.{rest}"

    return {staged(key): tensor for key, tensor in state.items()}


def _flat_blocks(state: StateDict) -> StateDict:
    """The inverse of `_staged`."""
    name = re.compile(r"stages\.(\d+)\.blocks\.(\d+)\.(.*)")
    parts = {key: match.groups() for key in state if (match := name.fullmatch(key))}
    blocks = sorted({(int(stage), int(block)) for stage, block, _ in parts.values()})
    numbers = {block: number for number, block in enumerate(blocks)}

    def flat(key: str) -> str:
        if key not in parts:
            return key
        stage, block, rest = parts[key]
        return f"blocks.{numbers[int(stage), int(block)]}.{re.sub('^shortcut_proj_(?:attn|mlp)', 'proj', rest)}"

    return {flat(key): tensor for key, tensor in state.items()}


def _layout(
    name: str,
    signature_keys: tuple[str, ...],
    describe: Callable[[StateDict], dict[str, Any]],
    rearrange: Rearrangement | None = None,
    publishing: Publishing = _TIMM,
) -> CheckpointLayout:
    return CheckpointLayout(
        name,
        signature_keys,
        _LINES,
        describe,
        special=SpecialTensors(no_effect={"head.*": "the classification head"}, missing=_MISSING, rearrange=rearrange),
        options=LayoutOptions(project_defaults=("class_token_residual",)),
        publishing=publishing,
    )


def _describe_released(tensors: StateDict) -> dict[str, Any]:
    """The config section of a released classifier; unlike timm's, its class token has no residual pooling."""
    sections = describe(tensors)
    if sections["backbone"]["class_token"]:
        sections["backbone"]["class_token_residual"] = False
    return sections


TIMM = _layout(
    "timm-mvit", ("stages.{s}.blocks.{b}.attn.pool_k.weight", "stages.{s}.blocks.{b}.attn.norm_k.*"), describe
)
FACEBOOK = _layout(
    "facebook-mvitv2",
    (
        "patch_embed.proj.weight",
        *(f"blocks.{{i}}.{x}" for x in ("norm1.*", "attn.qkv.*", "mlp.fc1.*", "attn.pool_k.*")),
    ),
    _describe_released,
    rearrange=Rearrangement(_staged, _flat_blocks),
    publishing=Publishing(licences=_LICENCES, files={"MViTv2_*.pyth": _LICENCES}),
)


def _describe_detector(tensors: StateDict) -> dict[str, Any]:
    """The config section of a detector's backbone, with the windows of all published configs."""
    sections = describe(tensors)
    sections["backbone"] |= {"window_size": 56, "coarse_global_keys": True}
    return sections


DETECTRON2 = CheckpointLayout(
    name="detectron2-mvitv2",
    signature_keys=(
        "scale2_norm.weight",
        *(f"blocks.{{i}}.{x}.*" for x in ("norm1", "attn.qkv", "mlp.fc1", "attn.pool_k")),
    ),
    lines=(
        *(line for line in _LINES if line.foreign_key != "norm.*"),
        *(Line(f"scale{i + 2}_norm.*", f"feature_norms.{i}.*") for i in range(4)),
    ),
    describe=_describe_detector,
    other_keys=OtherKeys(prefixes=("backbone.bottom_up.", "bottom_up.")),
    special=SpecialTensors(
        rearrange=Rearrangement(_staged, _flat_blocks),
        no_effect={
            **dict.fromkeys(("backbone.fpn_*", "backbone.top_block.*"), "the detector's pyramid"),
            **dict.fromkeys(("proposal_generator.*", "roi_heads.*", "pixel_mean", "pixel_std"), "the detector"),
        },
    ),
    options=LayoutOptions(unsaved=("backbone.window_size", "backbone.coarse_global_keys")),
    publishing=Publishing(
        licences=Licences(
            "Apache-2.0",
            data="ImageNet, COCO",
            teacher="none",
            source="https://github.com/facebookresearch/detectron2/blob/4febd2d/projects/MViTv2/README.md",
            date="2026-11-29",
        )
    ),
)
