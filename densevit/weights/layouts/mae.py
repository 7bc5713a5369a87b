"""facebookresearch/mae (He et al. 2022): the encoder of pre-training's files, and of fine-tuning's, by timm's names."""

from dataclasses import replace

from densevit.weights.layouts.timm import VIT

_DECODER = "what restores hidden patches in pre-training"

MAE = replace(
    VIT,
    name="mae",
    marks=(
        "patch_embed.proj.weight",
        "blocks.0.attn.qkv.weight",
        "mask_token",
        "decoder_embed.weight",
        "decoder_blocks.0.attn.qkv.weight",
        "decoder_pred.weight",
    ),
    no_effect={
        **VIT.no_effect,
        "mask_token": "what stands for hidden patches in pre-training",
        "decoder_embed.*": _DECODER,
        "decoder_pos_embed": _DECODER,
        "decoder_blocks.*": _DECODER,
        "decoder_norm.*": _DECODER,
        "decoder_pred.*": _DECODER,
    },
)
"""Files of fine-tuning and linear probing have neither decoder nor mask: they are recognised as timm's and read so."""

LAYOUTS = (MAE,)
