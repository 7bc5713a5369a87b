"""facebookresearch/mae (He et al. 2022): the encoder of pre-training and fine-tuning checkpoints, with timm's keys."""

from dataclasses import replace

from densevit_backbones.vit.timm_checkpoints import ENCODER

_DECODER = "the decoder of pre-training"

MAE = replace(
    ENCODER,
    name="mae",
    licence="CC-BY-NC-4.0 (facebookresearch/mae)",
    marks=(
        "patch_embed.proj.weight",
        "blocks.0.attn.qkv.weight",
        "mask_token",
        "decoder_embed.weight",
        "decoder_blocks.0.attn.qkv.weight",
        "decoder_pred.weight",
    ),
    no_effect={
        **ENCODER.no_effect,
        "mask_token": "the mask token of pre-training",
        "decoder_embed.*": _DECODER,
        "decoder_pos_embed": _DECODER,
        "decoder_blocks.*": _DECODER,
        "decoder_norm.*": _DECODER,
        "decoder_pred.*": _DECODER,
    },
)
"""Checkpoints of fine-tuning and linear probing have neither decoder nor mask token: they are recognised as timm's."""
