"""timm's vision transformers, whose keys the DeiT and DeiT III releases share."""

from dataclasses import replace

from densevit.interfaces import CheckpointLayout, Line, Publishing, SpecialTensors
from densevit.layouts import GRID, TOKENS, added_to_tokens
from densevit_backbones.licences import DEIT_FILES, TIMM, TIMM_FILES
from densevit_backbones.vit.inferred_options import OPTIONS, describe

_HYBRID = "patch_embed.backbone."
_VIT = (
    Line("cls_token", "class_token", TOKENS),
    Line("dist_token", "distillation_token", TOKENS),
    Line("reg_token", "register_tokens", TOKENS),
    Line("pos_embed", "position_table", GRID),
    Line("patch_embed.proj.*", "stem.projection.*"),
    Line(_HYBRID + "stem.conv.*", "stem.conv.*"),
    Line(_HYBRID + "stem.norm.*", "stem.norm.*"),
    Line(_HYBRID + "stages.{s}.blocks.{b}.downsample.conv.*", "stem.stages.{s}.{b}.downsample.0.*"),
    Line(_HYBRID + "stages.{s}.blocks.{b}.downsample.norm.*", "stem.stages.{s}.{b}.downsample.1.*"),
    Line(_HYBRID + "stages.{s}.blocks.{b}.*", "stem.stages.{s}.{b}.*"),
    Line("blocks.{i}.norm1.*", "blocks.{i}.norm1.*"),
    Line("blocks.{i}.attn.qkv.*", "blocks.{i}.attention.qkv.*"),
    Line("blocks.{i}.attn.q_norm.*", "blocks.{i}.attention.query_norm.*"),
    Line("blocks.{i}.attn.k_norm.*", "blocks.{i}.attention.key_norm.*"),
    Line("blocks.{i}.attn.proj.*", "blocks.{i}.attention.output.*"),
    Line("blocks.{i}.ls1.gamma", "blocks.{i}.scale1.scale"),
    Line("blocks.{i}.norm2.*", "blocks.{i}.norm2.*"),
    Line("blocks.{i}.mlp.fc1.*", "blocks.{i}.mlp.expand.*"),
    Line("blocks.{i}.mlp.fc2.*", "blocks.{i}.mlp.contract.*"),
    Line("blocks.{i}.ls2.gamma", "blocks.{i}.scale2.scale"),
    Line("norm.*", "norm.*"),
    Line("blocks.{i}.gamma_1", "blocks.{i}.scale1.scale"),  # in the DeiT III release
    Line("blocks.{i}.gamma_2", "blocks.{i}.scale2.scale"),
)
POSITIONS = added_to_tokens("pos_embed", ("cls_token", "dist_token"), unplaced=("reg_token",))

ENCODER = CheckpointLayout(
    name="timm-vit",
    signature_keys=(
        "patch_embed.proj.weight",
        "blocks.{i}.norm1.weight",
        "blocks.{i}.attn.qkv.weight",
        "blocks.{i}.mlp.fc1.*",
    ),
    lines=_VIT,
    describe=describe,
    special=SpecialTensors(
        rearrange=POSITIONS,
        no_effect={
            "head.*": "the classification head",
            "head_dist.*": "DeiT's distillation head",
            "pre_logits.*": "a layer of the classification head",
            "fc_norm.*": "a norm after average pooling, for the classification head",
        },
    ),
    options=OPTIONS,
    publishing=Publishing(licences=TIMM, files=DEIT_FILES | TIMM_FILES),
)
# Differs only in export: DeiT III has a class token without a position. Reading gives the same tensors.
_UNPLACED = added_to_tokens("pos_embed", ("cls_token", "dist_token"), rows=False)
DEIT3 = replace(
    ENCODER,
    name="timm-deit3",
    signature_keys=("patch_embed.proj.weight", "blocks.{i}.attn.qkv.weight", "blocks.{i}.ls1.gamma"),
    special=replace(ENCODER.special, rearrange=_UNPLACED),
)
VIT = replace(ENCODER, variants=(DEIT3,))
