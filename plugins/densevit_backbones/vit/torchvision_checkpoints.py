"""torchvision's vision transformers."""

from densevit.interfaces import CheckpointLayout, Line, Publishing, SpecialTensors
from densevit.layouts import GRID, TOKENS, added_to_tokens
from densevit_backbones.licences import TORCHVISION, TORCHVISION_FILES
from densevit_backbones.vit.inferred_options import OPTIONS, describe
from densevit_backbones.vit.published_models import TORCHVISION as MODELS

_BLOCK = "encoder.layers.encoder_layer_{i}."
_VIT = (
    Line("class_token", "class_token", TOKENS),
    Line("encoder.pos_embedding", "position_table", GRID),
    Line("conv_proj.*", "stem.projection.*"),
    Line(_BLOCK + "ln_1.*", "blocks.{i}.norm1.*"),
    Line(_BLOCK + "self_attention.in_proj_weight", "blocks.{i}.attention.qkv.weight"),
    Line(_BLOCK + "self_attention.in_proj_bias", "blocks.{i}.attention.qkv.bias"),
    Line(_BLOCK + "self_attention.out_proj.*", "blocks.{i}.attention.output.*"),
    Line(_BLOCK + "ln_2.*", "blocks.{i}.norm2.*"),
    Line(_BLOCK + "mlp.0.*", "blocks.{i}.mlp.expand.*"),
    Line(_BLOCK + "mlp.3.*", "blocks.{i}.mlp.contract.*"),
    Line("encoder.ln.*", "norm.*"),
    Line(_BLOCK + "mlp.linear_1.*", "blocks.{i}.mlp.expand.*"),  # the keys of the first released files
    Line(_BLOCK + "mlp.linear_2.*", "blocks.{i}.mlp.contract.*"),
)
_POSITIONS = added_to_tokens("encoder.pos_embedding", ("class_token",))

VIT = CheckpointLayout(
    name="torchvision-vit",
    signature_keys=("conv_proj.weight", "encoder.pos_embedding", _BLOCK + "ln_1.weight"),
    lines=_VIT,
    describe=describe,
    special=SpecialTensors(rearrange=_POSITIONS, no_effect={"heads.*": "the classification head"}),
    options=OPTIONS,
    publishing=Publishing(licences=TORCHVISION, files=TORCHVISION_FILES, models=MODELS),
)
