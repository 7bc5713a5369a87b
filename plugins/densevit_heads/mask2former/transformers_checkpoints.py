"""transformers' Mask2FormerForUniversalSegmentation on its Swin or ResNet, with the keys of files and of models.

Files, including the Hub's, have the keys of transformers 4, also if version 5 writes them; the `state_dict` of a model
on a Swin in version 5 has other keys.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from densevit.interfaces import (
    CheckpointLayout,
    Class,
    LayoutOptions,
    Line,
    OtherKeys,
    Publishing,
    SpecialTensors,
    StateDict,
)
from densevit.layouts import backbone_lines, find
from densevit.set_prediction.mask_segments import Task
from densevit_heads.mask2former.checkpoints import FILES, KEYS, LICENCES, encoder_lines, for_task, with_variants
from densevit_heads.mask2former.published_models import MODELS
from densevit_heads.parts.attention_checkpoints import fused_attention, projected_attention

PIXELS, DECODER = "model.pixel_level_module.decoder", "model.transformer_module"
_ENCODER = "model.pixel_level_module.encoder."


def _head_lines(head: str) -> tuple[Line, ...]:
    pixels, decoder, layer = f"{head}.pixel_decoder", f"{head}.decoder", f"{head}.decoder.layers.{{i}}"
    source = f"{DECODER}.decoder.layers.{{i}}"
    parts = {"self_attn_layer_norm": "self_attention_norm", "cross_attn_layer_norm": "cross_attention_norm"}
    parts |= {"fc1": "ffn.expand", "fc2": "ffn.contract", "final_layer_norm": "ffn_norm"}
    return (
        Line(f"{PIXELS}.input_projections.{{i}}.*", f"{pixels}.projections.{{i}}.*"),
        Line(f"{PIXELS}.level_embed", f"{pixels}.level_embedding"),
        *encoder_lines(
            f"{PIXELS}.encoder.layers.{{i}}",
            f"{pixels}.encoder.{{i}}",
            ("self_attn_layer_norm", "final_layer_norm", "fc1", "fc2"),
        ),
        Line(f"{PIXELS}.adapter_1.*", f"{pixels}.laterals.0.*"),
        Line(f"{PIXELS}.layer_1.*", f"{pixels}.outputs.0.*"),
        Line(f"{PIXELS}.mask_projection.*", f"{pixels}.mask_features.*"),
        Line(f"{DECODER}.queries_features.weight", f"{decoder}.contents.weight"),
        Line(f"{DECODER}.queries_embedder.weight", f"{decoder}.positions.weight"),
        Line(f"{DECODER}.level_embed.weight", f"{decoder}.level_embedding.weight"),
        Line(f"{DECODER}.decoder.layernorm.*", f"{decoder}.norm.*"),
        *projected_attention(f"{source}.self_attn", f"{layer}.self_attention"),
        *fused_attention(f"{source}.cross_attn", f"{layer}.cross_attention"),
        *(Line(f"{source}.{name}.*", f"{layer}.{part}.*") for name, part in parts.items()),
        *(
            Line(f"{DECODER}.decoder.mask_predictor.mask_embedder.{i}.0.*", f"{decoder}.mask_head.{2 * i}.*")
            for i in range(3)
        ),
        Line("class_predictor.*", f"{decoder}.label_head.*"),
    )


def _swin_lines() -> tuple[Line, ...]:
    lines = [line for line in backbone_lines(_SWIN, _ENCODER) if "feature_norms" not in line.key]
    norms = f"{_ENCODER}hidden_states_norms.stage"
    return (*lines, *(Line(f"{norms}{i + 1}.*", f"backbone.feature_norms.{i}.*") for i in range(4)))


def _config(
    sections: Mapping[str, Any], state: StateDict, classes: Sequence[Class], backbone: str
) -> dict[str, dict[str, Any]]:
    """config.json and preprocessor_config.json. backbone: the layout of transformers' backbone."""
    files = find(backbone).publishing.config_files(sections, state, classes)
    if not files:
        return {}
    [head] = sections["heads"].values()
    decoder, pixels = head["transformer"], head["pixel_decoder"]
    config = {
        "model_type": "mask2former",
        "architectures": ["Mask2FormerForUniversalSegmentation"],
        "backbone_config": files["config.json"] | {"out_features": [f"stage{i}" for i in range(1, 5)]},
        "feature_size": decoder["width"],
        "mask_feature_size": decoder["width"],
        "hidden_dim": decoder["width"],
        "num_queries": head["num_queries"],
        "num_attention_heads": decoder["num_heads"],
        "encoder_layers": pixels["layers"],
        "encoder_feedforward_dim": pixels["feedforward"],
        "decoder_layers": decoder["decoder_layers"]
        + 1,  # transformers also counts the predictions before the first layer
        "dim_feedforward": decoder["feedforward"],
        "pre_norm": False,
        "dropout": 0.0,
    }
    return {
        "config.json": config,
        "preprocessor_config.json": {"image_processor_type": "Mask2FormerImageProcessor", "ignore_index": 255},
    }


def _layout(
    name: str,
    task: Task,
    backbone: tuple[Line, ...],
    signature_key: str,
    config: str,
    other_keys: OtherKeys,
    special: SpecialTensors,
) -> CheckpointLayout:
    layout = CheckpointLayout(
        name=name,
        signature_keys=(
            signature_key,
            f"{PIXELS}.level_embed",
            f"{PIXELS}.encoder.layers.0.self_attn.sampling_offsets.weight",
            f"{DECODER}.decoder.layers.0.cross_attn.in_proj_weight",
            f"{DECODER}.queries_features.weight",
        ),
        lines=backbone,
        describe=lambda tensors: {},
        other_keys=other_keys,
        special=special,
        options=LayoutOptions(
            implied={
                "activation_function": ("relu",),
                "pre_norm": (False,),
                "enforce_input_projection": (False,),
                "common_stride": (4,),
                "backbone_config.hidden_act": ("gelu",) if config == _SWIN else ("relu",),
            }
        ),
        publishing=Publishing(
            licences=LICENCES,
            files=FILES,
            models=MODELS.get(name, {}),
            config_files=partial(_config, backbone=config),
        ),
    )
    return for_task(layout, task, "class_predictor.bias", _head_lines(f"heads.{KEYS[task]}"))


_SWIN, _RESNET = "transformers-swin", "transformers-resnet"
_MEMORY = OtherKeys(  # the keys of a model on a Swin in version 5, and of its files
    spellings=(
        *((f"{_ENCODER}swin.{source}", f"{_ENCODER}{name}") for source, name in find(_SWIN).other_keys.spellings),
        (f"{_ENCODER}swin.*", f"{_ENCODER}*"),
    )
)
_CONSTANTS = SpecialTensors(
    no_effect={
        f"{_ENCODER}layernorm.*": "a norm of the last feature map, which has its own",
        f"{_ENCODER}swin.layernorm.*": "a norm of the last feature map, which has its own",
        f"{_ENCODER}encoder.layers.{{s}}.blocks.{{b}}.attention.self.relative_position_index": "derived from the "
        "window size",
    }
)


def _swin(task: Task) -> CheckpointLayout:
    lines, signature_key = _swin_lines(), f"{_ENCODER}embeddings.patch_embeddings.projection.weight"
    return _layout("transformers-mask2former", task, lines, signature_key, _SWIN, _MEMORY, _CONSTANTS)


def _resnet(task: Task) -> CheckpointLayout:
    signature_key = f"{_ENCODER}embedder.embedder.convolution.weight"
    lines = backbone_lines(_RESNET, _ENCODER)
    return _layout(
        "transformers-mask2former-resnet", task, lines, signature_key, _RESNET, OtherKeys(), SpecialTensors()
    )


MASK2FORMER = with_variants(_swin, _resnet)
