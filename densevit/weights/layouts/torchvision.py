"""torchvision's ResNets, ResNeXts and wide ResNets, whose keys are ours, and its vision transformers."""

from densevit.weights.key_mapping import Layout, Line
from densevit.weights.positions import GRID, TOKENS, added_to_tokens
from densevit.weights.variants import described, resnet, vit

RESNET = (
    Line("conv1.*", "conv1.*"),
    Line("bn1.*", "bn1.*"),
    Line("layer{i}.*", "layer{i}.*"),
)
RESNET_NO_EFFECT = {"fc.*": "the classification head"}

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

LAYOUTS = (
    Layout(
        name="torchvision-resnet",
        part="backbone",
        marks=("conv1.weight", "bn1.weight", "layer1.{i}.conv1.weight", "layer4.{i}.conv1.weight"),
        lines=RESNET,
        describe=described(resnet, RESNET),
        no_effect=RESNET_NO_EFFECT,
    ),
    Layout(
        name="torchvision-vit",
        part="backbone",
        marks=("conv_proj.weight", "encoder.pos_embedding", _BLOCK + "ln_1.weight"),
        lines=_VIT,
        rearrange=_POSITIONS,
        describe=described(vit, _VIT, _POSITIONS),
        no_effect={"heads.*": "the classification head"},
    ),
)
