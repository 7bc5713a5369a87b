"""transformers' DFineForObjectDetection on its HGNetV2, with the keys of files and of models.

Files, including the Hub's, have the keys of transformers 4, also if version 5 writes them; the `state_dict` of a model
in version 5 has other keys. Outputs are equal. The loss here is the authors'; transformers' loss differs.
"""

import re
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from torch import Tensor

from densevit.interfaces import (
    CheckpointLayout,
    Class,
    LayoutOptions,
    Line,
    OtherKeys,
    Publishing,
    Rearrangement,
    SpecialTensors,
    StateDict,
)
from densevit.layouts import count
from densevit_heads.dfine.checkpoints import (
    AIFI,
    DECODER,
    ENCODER,
    FILES,
    HEAD,
    LAYER,
    LICENCES,
    QUERIES,
    UNSAVED,
    describe,
    fusion_blocks,
    recipe,
)
from densevit_heads.dfine.published_models import MODELS
from densevit_heads.parts.attention_checkpoints import deformable_attention, projected_attention
from densevit_heads.parts.convolution_checkpoints import conv_norm
from densevit_heads.parts.detector_checkpoints import (
    BLACK,
    LABELS,
    WHITE,
    detection_classes,
    id2label,
    layer_sizes,
    mlp,
    points_and_scale,
    shared_count,
)

_BACKBONE = "model.backbone.model"
_AIFI, _LAYER = "model.encoder.encoder.0.layers.{i}", "model.decoder.layers.{i}"
_AIFI_IN_MEMORY = _AIFI.replace(".encoder.0", ".aifi.0")


def _backbone_lines() -> tuple[Line, ...]:
    block = "stages.{s}.blocks.{b}"
    places = {f"embedder.{stem}": f"stem.{stem}" for stem in ("stem1", "stem2a", "stem2b", "stem3", "stem4")}
    layers = [f"{block}.layers.{{l}}{convolution}" for convolution in ("", ".conv1", ".conv2")]
    places |= {f"encoder.{part}": part for part in ("stages.{s}.downsample", *layers, f"{block}.aggregation.{{a}}")}
    parts = {"convolution": "conv", "normalization": "bn", "lab": "lab"}
    return tuple(
        Line(f"{_BACKBONE}.{source}.{part}.*", f"backbone.model.{target}.{name}.*")
        for source, target in places.items()
        for part, name in parts.items()
    )


def _lines() -> tuple[Line, ...]:
    parts = {"enter": "conv1", "leave": "conv4", "branches.0.0": "csp_rep1", "branches.0.1": "conv2"}
    parts |= {"branches.1.0": "csp_rep2", "branches.1.1": "conv3"}
    return (
        *_backbone_lines(),
        Line("model.encoder_input_proj.{i}.*", f"{ENCODER}.projections.{{i}}.*"),
        *projected_attention(f"{_AIFI}.self_attn", f"{AIFI}.self_attention"),
        Line(f"{_AIFI}.fc1.*", f"{AIFI}.feedforward.expand.*"),
        Line(f"{_AIFI}.fc2.*", f"{AIFI}.feedforward.contract.*"),
        Line(f"{_AIFI}.self_attn_layer_norm.*", f"{AIFI}.residuals.0.norm.*"),
        Line(f"{_AIFI}.final_layer_norm.*", f"{AIFI}.residuals.1.norm.*"),
        *conv_norm("model.encoder.lateral_convs.{i}", f"{ENCODER}.laterals.{{i}}"),
        *conv_norm("model.encoder.downsample_convs.{i}.conv1", f"{ENCODER}.downsamples.{{i}}.0"),
        *conv_norm("model.encoder.downsample_convs.{i}.conv2", f"{ENCODER}.downsamples.{{i}}.1"),
        *fusion_blocks("model.encoder", parts),
        Line("model.decoder_input_proj.{i}.*", f"{HEAD}.projections.{{i}}.*"),
        *projected_attention(f"{_LAYER}.self_attn", f"{LAYER}.self_attention"),
        *deformable_attention(f"{_LAYER}.encoder_attn", f"{LAYER}.cross_attention"),
        Line(f"{_LAYER}.gateway.*", f"{LAYER}.gate.*"),
        Line(f"{_LAYER}.fc1.*", f"{LAYER}.ffn.expand.*"),
        Line(f"{_LAYER}.fc2.*", f"{LAYER}.ffn.contract.*"),
        Line(f"{_LAYER}.self_attn_layer_norm.*", f"{LAYER}.self_attention_norm.*"),
        Line(f"{_LAYER}.final_layer_norm.*", f"{LAYER}.ffn_norm.*"),
        Line("model.denoising_class_embed.weight", f"{HEAD}.denoising.label_embedding.weight", LABELS),
        *mlp("model.decoder.query_pos_head", f"{DECODER}.positions", 2),
        Line("model.enc_output.0.*", f"{QUERIES}.project.*"),
        Line("model.enc_output.1.*", f"{QUERIES}.norm.*"),
        Line("model.enc_score_head.*", f"{QUERIES}.label_head.*"),
        *mlp("model.enc_bbox_head", f"{QUERIES}.box_head"),
        Line("model.decoder.class_embed.{i}.*", f"{DECODER}.label_heads.{{i}}.*"),
        *mlp("model.decoder.pre_bbox_head", f"{DECODER}.initial_box_head"),
        *mlp("model.decoder.bbox_embed.{i}", f"{DECODER}.corner_heads.{{i}}"),
        *mlp("model.decoder.lqe_layers.{i}.reg_conf", f"{DECODER}.qualities.{{i}}.mlp", 2),
    )


_SPELLINGS = (  # of a model in version 5
    *((f"{_AIFI_IN_MEMORY}.mlp.layers.{i}.*", f"{_AIFI}.fc{i + 1}.*") for i in range(2)),
    *((f"{_LAYER}.mlp.layers.{i}.*", f"{_LAYER}.fc{i + 1}.*") for i in range(2)),
    (f"{_AIFI_IN_MEMORY}.self_attn.o_proj.*", f"{_AIFI}.self_attn.out_proj.*"),
    (f"{_LAYER}.self_attn.o_proj.*", f"{_LAYER}.self_attn.out_proj.*"),
    (f"{_AIFI_IN_MEMORY}.*", f"{_AIFI}.*"),
)


def _shared_heads(state: StateDict) -> dict[str, Tensor]:
    """Restores shared prediction heads, which version 5 stores once: with the first layer, or outside the decoder."""
    result = dict(state)
    layers = count(state, r"model\.decoder\.layers\.(\d+)\..*")
    for key in [key for key in state if re.match(r"(class|bbox)_embed\.", key)]:
        result.setdefault(f"model.decoder.{key}", result.pop(key))
    for key in [key for key in result if re.match(r"model\.decoder\.(class|bbox)_embed\.0\.", key)]:
        for i in range(1, layers):
            result.setdefault(key.replace("_embed.0.", f"_embed.{i}."), result[key])
    return result


def _own_heads(state: StateDict) -> dict[str, Tensor]:
    """Copies each head outside the decoder, as in transformers' files."""
    inside = re.compile(r"model\.decoder\.((?:class|bbox)_embed\..*)")
    return {**state, **{match[1]: x for key, x in state.items() if (match := inside.fullmatch(key))}}


def _saved_options(state: StateDict, metadata: Mapping[str, Any]) -> dict[str, Any]:
    """The constants of a file or of config.json, and its numbers of attention heads, queries and denoising queries."""
    options = points_and_scale(
        state,
        metadata,
        points="model.decoder.layers.0.encoder_attn.num_points_scale",
        scale="model.decoder.reg_scale",
    )
    config = metadata.get("config", {})
    if config.get("model_type") != "d_fine":
        return options
    options[f"{HEAD}.num_queries"] = config.get("num_queries", 300)
    options[f"{HEAD}.contrastive_denoising"] = config.get("num_denoising", 100)
    options.setdefault(f"{HEAD}.reg_scale", config.get("reg_scale", 4.0))
    points = config.get("decoder_n_points", 4)
    levels = config.get("num_feature_levels", 3)
    options.setdefault(f"{HEAD}.num_points", (points,) * levels if isinstance(points, int) else tuple(points))
    return options | shared_count(config, "attention_heads", 8, f"{HEAD}.transformer.num_heads")


def _hgnet(state: StateDict, levels: int) -> dict[str, Any]:
    """The config of transformers' HGNetV2. state: the state dict with densevit's keys."""
    stages = [_hgnet_stage(state, i) for i in range(4)]
    stem = [3, *(len(state[f"backbone.model.stem.{name}.bn.weight"]) for name in ("stem1", "stem4"))]
    return {
        "model_type": "hgnet_v2",
        "stem_channels": stem,
        "embedding_size": stem[-1],
        "hidden_sizes": [stage["stage_out_channels"] for stage in stages],
        **{key: [stage[key] for stage in stages] for key in stages[0]},
        "use_learnable_affine_block": "backbone.model.stem.stem1.lab.scale" in state,
        "out_features": [f"stage{i}" for i in range(5 - levels, 5)],
    }


def _hgnet_stage(state: StateDict, number: int) -> dict[str, int]:
    """The values of a stage, from 0, by the keys of the config with those of all stages."""
    block = f"backbone.model.stages.{number}.blocks.0"
    light = f"{block}.layers.0.conv1.conv.weight" in state
    middle, inputs = state[f"{block}.layers.0.{'conv1.' if light else ''}conv.weight"].shape[:2]
    return {
        "stage_in_channels": inputs,
        "stage_mid_channels": middle,
        "stage_out_channels": len(state[f"{block}.aggregation.1.bn.weight"]),
        "stage_num_blocks": count(state, rf"backbone\.model\.stages\.{number}\.blocks\.(\d+)\..*"),
        "stage_numb_of_layers": count(state, rf"backbone\.model\.stages\.{number}\.blocks\.0\.layers\.(\d+)\..*"),
        "stage_light_block": light,
    }


def _config(sections: Mapping[str, Any], state: StateDict, classes: Sequence[Class]) -> dict[str, dict[str, Any]]:
    backbone, head = sections["backbone"], sections["heads"]["detection"]
    transformer, encoder, levels = head["transformer"], head["encoder"], len(head["num_points"])
    representable = head["min_stride"] == 2 ** (6 - levels) and not head["training_layers"]
    if not str(backbone.get("model")).startswith("hgnetv2_") or not representable:
        return {}
    config: dict[str, Any] = {
        "model_type": "d_fine",
        "architectures": ["DFineForObjectDetection"],
        "backbone_config": _hgnet(state, levels),
        "freeze_backbone_batch_norms": False,
        "encoder_in_channels": _hgnet(state, levels)["hidden_sizes"][-levels:],
        "encoder_hidden_dim": encoder["width"],
        "encoder_ffn_dim": encoder["feedforward"],
        "hidden_expansion": encoder["expansion"],
        "depth_mult": head["fusion_blocks"] / 3,
        "encode_proj_layers": [levels - 1],
        "feat_strides": [2 ** (6 - levels + i) for i in range(levels)],
        "num_feature_levels": levels,
        "decoder_in_channels": [encoder["width"]] * levels,
        "d_model": transformer["width"],
        "decoder_ffn_dim": transformer["feedforward"],
        "decoder_n_points": [*head["num_points"]],
        "max_num_bins": head["num_bins"],
        "reg_scale": head["reg_scale"],
        "num_queries": head["num_queries"],
        "num_denoising": head["contrastive_denoising"],
        "tie_word_embeddings": False,
    }
    sizes = layer_sizes(transformer, attention_heads=transformer["num_heads"])
    return {
        "config.json": config | sizes | id2label(classes),
        "preprocessor_config.json": {
            "image_processor_type": "RTDetrImageProcessor",
            "size": {"height": 640, "width": 640},
        },
    }


DFINE = CheckpointLayout(
    name="transformers-dfine",
    signature_keys=(
        f"{_BACKBONE}.embedder.stem1.convolution.weight",
        "model.encoder_input_proj.0.0.weight",
        "model.encoder.encoder.0.layers.0.self_attn.out_proj.weight",
        "model.decoder.layers.0.gateway.gate.weight",
        "model.decoder.lqe_layers.0.reg_conf.layers.0.weight",
        "model.decoder.pre_bbox_head.layers.0.weight",
    ),
    lines=_lines(),
    describe=describe,
    classes=partial(detection_classes, bias="model.decoder.class_embed.0.bias"),
    other_keys=OtherKeys(spellings=_SPELLINGS),
    special=SpecialTensors(
        rearrange=Rearrangement(_shared_heads, _own_heads),
        no_effect={
            "model.decoder.layers.{i}.encoder_attn.num_points_scale": "the inverse of the number of points",
            "model.decoder.up": "the constant 0.5",
            "model.decoder.reg_scale": "the option reg_scale",
        },
    ),
    options=LayoutOptions(
        unsaved=UNSAVED,
        saved=_saved_options,
        implied={
            "activation_function": ("silu",),
            "encoder_activation_function": ("gelu",),
            "decoder_activation_function": ("relu",),
            "normalize_before": (False,),
            "learn_initial_query": (False,),
            "positional_encoding_temperature": (10000,),
            "eval_size": (None,),
            "decoder_method": ("default",),
            "decoder_offset_scale": (0.5,),
            "up": (0.5,),
            "top_prob_values": (4,),
            "layer_scale": (1,),
        },
    ),
    publishing=Publishing(
        mean=BLACK,
        std=WHITE,
        licences=LICENCES,
        files=FILES,
        models=MODELS,
        config_files=_config,
        recipe=recipe,
    ),
)
