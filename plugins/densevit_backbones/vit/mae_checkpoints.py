"""facebookresearch/mae (He et al. 2022): the encoder of pre-training and fine-tuning checkpoints, with timm's keys."""

from dataclasses import replace
from typing import Any

from densevit.interfaces import Publishing, StateDict
from densevit_backbones import licences
from densevit_backbones.vit.inferred_options import describe
from densevit_backbones.vit.timm_checkpoints import ENCODER

_DECODER = "the decoder of pre-training"


def _resized(tensors: StateDict) -> dict[str, Any]:
    """The config section of a ViT with the position resizing of `util/pos_embed.py`."""
    sections = describe(tensors)
    sections["backbone"]["position_resizing"] = "bicubic"
    return sections


MAE = replace(
    ENCODER,
    name="mae",
    signature_keys=(
        "patch_embed.proj.weight",
        "blocks.0.attn.qkv.weight",
        "mask_token",
        "decoder_embed.weight",
        "decoder_blocks.0.attn.qkv.weight",
        "decoder_pred.weight",
    ),
    describe=_resized,
    special=replace(
        ENCODER.special,
        no_effect={
            **ENCODER.special.no_effect,
            "mask_token": "the mask token of pre-training",
            "decoder_embed.*": _DECODER,
            "decoder_pos_embed": _DECODER,
            "decoder_blocks.*": _DECODER,
            "decoder_norm.*": _DECODER,
            "decoder_pred.*": _DECODER,
        },
    ),
    publishing=Publishing(licences=licences.MAE, files={"mae_*.pth": licences.MAE}),
)
"""Checkpoints of fine-tuning and linear probing have neither decoder nor mask token: they are recognised as timm's."""
