"""The backbones in checkpoints of RF-DETR and LW-DETR, for the layouts of these detectors.

The authors' files of RF-DETR use transformers' keys of DINOv2, files of LW-DETR use BEiT's keys. transformers writes
RF-DETR with the authors' keys, also in versions whose models have other keys.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from densevit.errors import WeightsError
from densevit.interfaces import ZEROS, Change, Line, StateDict
from densevit.layouts import GRID, backbone_rearrangement, count, find

DINOV2 = next(layout for layout in find("transformers-vit").variants if layout.name == "transformers-dinov2")
BEIT = find("beit")
VARIANTS = {  # of `windowed_vit`: channels, blocks and attention heads
    "nano": (128, 6, 4), "small": (384, 12, 6), "base": (768, 12, 12), "large": (1024, 24, 16),
    "lw_tiny": (192, 6, 12), "lw_small": (192, 10, 12), "lw_medium": (384, 10, 12), "lw_xlarge": (768, 10, 12),
}  # fmt: skip
UNSAVED = ("backbone.num_windows", "backbone.features")
"""The options that no tensor determines."""
_RF, _LW, _MODEL = "backbone.0.encoder.encoder.", "backbone.0.encoder.", "model.backbone.backbone."


def _lines(lines: Iterable[Line], prefix: str) -> tuple[Line, ...]:
    return tuple(
        Line(
            line.foreign_key if line.foreign_key == ZEROS else prefix + line.foreign_key,
            f"backbone.{line.key}",
            line.change,
        )
        for line in lines
    )


def _with_unused_row(table: Tensor) -> Tensor:
    cells = GRID.inverse(table)
    return torch.cat([cells.new_zeros(1, 1, cells.shape[2]), cells], dim=1)


# LW-DETR's table has a first row for a class token, which the model lacks.
_CELLS = Change(lambda table: GRID.forward(table[:, 1:]), _with_unused_row)
_BLOCK, _TARGET_BLOCK, _QKV = "encoder.layer.{i}", "blocks.{i}", "blocks.{i}.attention.qkv"

RF_DETR = _lines(DINOV2.lines, _RF)
RF_DETR_REARRANGE = backbone_rearrangement(DINOV2, _RF)
RF_DETR_SPELLINGS = (
    *((_MODEL + model, _RF + file) for model, file in DINOV2.other_keys.spellings),
    (f"{_MODEL}*", f"{_RF}*"),
)
RF_DETR_NO_EFFECT = {f"{_RF}embeddings.mask_token": "the mask token of pre-training"}
RF_DETR_BASE_NO_EFFECT = {**RF_DETR_NO_EFFECT, f"{_RF}encoder.layer.11.*": "the block after the last feature"}
LW_DETR = _lines((Line("pos_embed", "position_table", _CELLS), *BEIT.lines), _LW)
TRANSFORMERS_LW_DETR = _lines(
    (
        Line("embeddings.position_embeddings", "position_table", _CELLS),
        Line("embeddings.projection.*", "stem.projection.*"),
        Line(f"{_BLOCK}.layernorm_before.*", f"{_TARGET_BLOCK}.norm1.*"),
        Line(f"{_BLOCK}.attention.attention.query.*", f"{_QKV}.*[0/3]"),
        Line(f"{_BLOCK}.attention.attention.key.weight", f"{_QKV}.weight[1/3]"),
        Line(ZEROS, f"{_QKV}.bias[1/3]"),
        Line(f"{_BLOCK}.attention.attention.value.*", f"{_QKV}.*[2/3]"),
        Line(f"{_BLOCK}.attention.output.*", f"{_TARGET_BLOCK}.attention.output.*"),
        Line(f"{_BLOCK}.gamma_1", f"{_TARGET_BLOCK}.scale1.scale"),
        Line(f"{_BLOCK}.layernorm_after.*", f"{_TARGET_BLOCK}.norm2.*"),
        Line(f"{_BLOCK}.intermediate.fc1.*", f"{_TARGET_BLOCK}.mlp.expand.*"),
        Line(f"{_BLOCK}.intermediate.fc2.*", f"{_TARGET_BLOCK}.mlp.contract.*"),
        Line(f"{_BLOCK}.gamma_2", f"{_TARGET_BLOCK}.scale2.scale"),
    ),
    _MODEL,
)
TRANSFORMERS_LW_DETR_SPELLINGS = (
    *(
        (f"{_MODEL}{_BLOCK}.attention.{name[0]}_proj.*", f"{_MODEL}{_BLOCK}.attention.attention.{name}.*")
        for name in ("query", "key", "value")
    ),
    (f"{_MODEL}{_BLOCK}.attention.o_proj.*", f"{_MODEL}{_BLOCK}.attention.output.*"),
)


def describe(tensors: StateDict) -> dict[str, Any]:
    """The options of the backbone, from tensors with densevit's keys.

    Tensors determine neither windows nor features; the released models are assumed. RF-DETR has 2 x 2 windows and 12
    blocks; its base model 4 x 4 windows and 11 blocks, without the unused last block; its nano model for segmentation,
    with positions for 26 x 26 patches of 12 pixels, one window.
    """
    width, depth = len(tensors["blocks.0.norm1.weight"]), count(tensors, r"blocks\.(\d+)\.norm1\.weight")
    patch, side = tensors["stem.projection.weight"].shape[-1], len(tensors["position_table"])
    base, lw_detr = depth % 3 == 2, "class_token" not in tensors
    names = ("lw_tiny", "lw_small", "lw_medium", "lw_xlarge") if lw_detr else ("nano", "small", "base", "large")
    variants = {(VARIANTS[name][0], VARIANTS[name][1] - (base and not lw_detr)): name for name in names}
    if (width, depth) not in variants:
        listed = ", ".join(f"{name} {sizes}" for sizes, name in variants.items())
        raise WeightsError(f"A backbone of (channels, blocks) {(width, depth)} is no known variant: {listed}.")
    options: dict[str, Any] = {"name": "windowed_vit", "variant": variants[width, depth], "patch_size": patch}
    options |= {"image_size": side * patch, "num_windows": 4 if base or lw_detr else 1 if side == 26 else 2}
    options |= {"registers": len(tensors["register_tokens"])} if "register_tokens" in tensors else {}
    return options | ({"features": (2, 5, 8, 11)} if base and not lw_detr else {})


def saved(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """The options of `UNSAVED` from config.json, if it has them. Raises WeightsError for other global blocks."""
    options: Mapping[str, Any] = metadata.get("config", {}).get("backbone_config") or {}
    if "num_windows" not in options:
        return {}
    lw_detr, features = options["model_type"] == "lw_detr_vit", tuple(options["out_indices"])
    windowed = set(options["window_block_indices" if lw_detr else "window_block_indexes"])
    expected = {1, 3, 5} if options["num_hidden_layers"] == 6 else {2, 4, 5, 8}
    if set(range(features[-1])) - windowed != (expected if lw_detr else set(features[:-1])):
        raise WeightsError(f"config.json has windows in the blocks {sorted(windowed)}, which is no released model.")
    windows = round(options["num_windows"] ** 0.5) if lw_detr else options["num_windows"]
    return {"backbone.num_windows": windows, "backbone.features": features}
