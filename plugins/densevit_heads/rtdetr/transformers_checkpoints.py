"""transformers' RTDetrForObjectDetection and RTDetrV2ForObjectDetection, with the keys of files and of models.

Files, including the Hub's, have the keys of transformers 4, also if version 5 writes them; the `state_dict` of a model
in version 5 has other keys. In training, transformers refines detached boxes; densevit looks forward twice, as the
authors do.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from densevit.interfaces import (
    CheckpointLayout,
    Class,
    LayoutOptions,
    Licences,
    Line,
    OtherKeys,
    Publishing,
    SpecialTensors,
    StateDict,
)
from densevit.layouts import backbone_lines, find
from densevit_heads.parts.attention_checkpoints import deformable_attention, projected_attention
from densevit_heads.parts.detector_checkpoints import (
    BLACK,
    LABELS,
    WHITE,
    detection_classes,
    id2label,
    layer_sizes,
    mlp,
    shared_count,
)
from densevit_heads.rtdetr import published_models
from densevit_heads.rtdetr.checkpoints import DECODER, ENCODER, HEAD, QUERIES, UNSAVED, describe, encoder_lines, recipe

_RESNET = find("transformers-rtdetr-resnet")
_AIFI, _DECODER = "model.encoder.encoder.0.layers.{i}", "model.decoder.layers.{i}"
_LICENCES = Licences(
    "Apache-2.0",
    "Apache-2.0",
    "ImageNet, COCO",
    "SSLD's (backbone)",
    source="https://huggingface.co/PekingU/rtdetr_r50vd",
    date="2026-11-29",
)
_UNREAD = replace(_LICENCES, weights="unknown")  # the model card states them
_FILES = {
    **dict.fromkeys(("hf:PekingU/rtdetr_r18vd", "hf:PekingU/rtdetr_*r50vd", "hf:PekingU/rtdetr_*r101vd"), _LICENCES),
    "hf:PekingU/rtdetr_*_o365": replace(_UNREAD, data="ImageNet, Objects365, COCO"),
    "hf:PekingU/rtdetr_*": _UNREAD,
}


def _lines() -> tuple[Line, ...]:
    target = f"{ENCODER}.attention.{{i}}"
    return (
        *backbone_lines("transformers-rtdetr-resnet", "model.backbone.model."),
        Line("model.encoder_input_proj.{i}.*", f"{ENCODER}.projections.{{i}}.*"),
        *projected_attention(f"{_AIFI}.self_attn", f"{target}.self_attention"),
        Line(f"{_AIFI}.fc1.*", f"{target}.feedforward.expand.*"),
        Line(f"{_AIFI}.fc2.*", f"{target}.feedforward.contract.*"),
        Line(f"{_AIFI}.self_attn_layer_norm.*", f"{target}.residuals.0.norm.*"),
        Line(f"{_AIFI}.final_layer_norm.*", f"{target}.residuals.1.norm.*"),
        *encoder_lines("model.encoder"),
        Line("model.decoder_input_proj.{i}.*", f"{HEAD}.projections.{{i}}.*"),
        *projected_attention(f"{_DECODER}.self_attn", f"{DECODER}.self_attention"),
        *deformable_attention(f"{_DECODER}.encoder_attn", f"{DECODER}.cross_attention"),
        Line(f"{_DECODER}.fc1.*", f"{DECODER}.ffn.expand.*"),
        Line(f"{_DECODER}.fc2.*", f"{DECODER}.ffn.contract.*"),
        Line(f"{_DECODER}.self_attn_layer_norm.*", f"{DECODER}.self_attention_norm.*"),
        Line(f"{_DECODER}.encoder_attn_layer_norm.*", f"{DECODER}.cross_attention_norm.*"),
        Line(f"{_DECODER}.final_layer_norm.*", f"{DECODER}.ffn_norm.*"),
        Line("model.denoising_class_embed.weight", f"{HEAD}.denoising.label_embedding.weight", LABELS),
        *mlp("model.decoder.query_pos_head", f"{HEAD}.query_positions", 2),
        Line("model.enc_output.0.*", f"{QUERIES}.project.*"),
        Line("model.enc_output.1.*", f"{QUERIES}.norm.*"),
        Line("model.enc_score_head.*", f"{QUERIES}.label_head.*"),
        *mlp("model.enc_bbox_head", f"{QUERIES}.box_head"),
        Line("model.decoder.class_embed.{i}.*", f"{HEAD}.label_heads.{{i}}.*"),
        *mlp("model.decoder.bbox_embed.{i}", f"{HEAD}.box_heads.{{i}}"),
    )


_AIFI_IN_MEMORY = _AIFI.replace(".encoder.0", ".aifi.0")
_SPELLINGS = (  # of a model in version 5
    *((f"{_AIFI_IN_MEMORY}.mlp.fc{i}.*", f"{_AIFI}.fc{i}.*") for i in (1, 2)),
    *((f"{_DECODER}.mlp.fc{i}.*", f"{_DECODER}.fc{i}.*") for i in (1, 2)),
    (f"{_AIFI_IN_MEMORY}.self_attn.o_proj.*", f"{_AIFI}.self_attn.out_proj.*"),
    (f"{_DECODER}.self_attn.o_proj.*", f"{_DECODER}.self_attn.out_proj.*"),
    (f"{_AIFI_IN_MEMORY}.*", f"{_AIFI}.*"),
)


def _saved_options(state: StateDict, metadata: Mapping[str, Any]) -> dict[str, Any]:
    """From config.json: the numbers of attention heads, points, queries and denoising queries, and the sampling."""
    config = metadata.get("config", {})
    if config.get("model_type") not in ("rt_detr", "rt_detr_v2"):
        return {}
    sampling = {"default": "grid_sample", "discrete": "discrete"}
    options = {
        "num_queries": config.get("num_queries", 300),
        "num_points": config.get("decoder_n_points", 4),
        "sampling": sampling[config.get("decoder_method", "default")],
        "contrastive_denoising": config.get("num_denoising", 100),
        **shared_count(config, "attention_heads", 8, "transformer.num_heads"),
    }
    return {f"{HEAD}.{name}": value for name, value in options.items()}


def _config(
    sections: Mapping[str, Any], state: StateDict, classes: Sequence[Class], version: int
) -> dict[str, dict[str, Any]]:
    backbone, head = sections["backbone"], sections["heads"]["detection"]
    transformer, encoder = head["transformer"], head["encoder"]
    discrete = head.get("sampling", "grid_sample") == "discrete"
    resnet = _RESNET.publishing.config_files(sections, {}, ()).get("config.json")
    if resnet is None or not isinstance(head["num_points"], int) or head["num_levels"] != 3:
        return {}
    version = 2 if discrete else version
    config: dict[str, Any] = {
        "model_type": "rt_detr" if version == 1 else "rt_detr_v2",
        "architectures": ["RTDetrForObjectDetection" if version == 1 else "RTDetrV2ForObjectDetection"],
        "backbone_config": resnet,
        "freeze_backbone_batch_norms": backbone.get("norm") == "frozen",
        "encoder_in_channels": resnet["hidden_sizes"][1:],
        "encoder_hidden_dim": encoder["width"],
        "encoder_ffn_dim": encoder["feedforward"],
        "hidden_expansion": encoder["expansion"],
        "decoder_in_channels": [encoder["width"]] * 3,
        "d_model": transformer["width"],
        "decoder_ffn_dim": transformer["feedforward"],
        "decoder_n_points": head["num_points"],
        "num_queries": head["num_queries"],
        "num_denoising": head["contrastive_denoising"],
        "anchor_image_size": None,
    }
    if version == 2:
        config["decoder_method"] = "discrete" if discrete else "default"
    sizes = layer_sizes(transformer, attention_heads=transformer["num_heads"])
    return {
        "config.json": config | sizes | id2label(classes),
        "preprocessor_config.json": {
            "image_processor_type": "RTDetrImageProcessor",
            "size": {"height": 640, "width": 640},
        },
    }


def _layout(version: int, *signature_keys: str) -> CheckpointLayout:
    return CheckpointLayout(
        name="transformers-rtdetr" + ("" if version == 1 else "v2"),
        signature_keys=(
            "model.backbone.model.embedder.embedder.2.convolution.weight",
            "model.encoder_input_proj.0.0.weight",
            "model.encoder.encoder.0.layers.0.self_attn.out_proj.weight",
            "model.encoder.fpn_blocks.0.bottlenecks.0.conv1.conv.weight",
            "model.decoder.layers.0.encoder_attn.sampling_offsets.weight",
            "model.enc_output.0.weight",
            *signature_keys,
        ),
        lines=_lines(),
        describe=describe,
        classes=partial(detection_classes, bias="model.decoder.class_embed.0.bias"),
        other_keys=OtherKeys(spellings=_SPELLINGS),
        special=SpecialTensors(
            no_effect={f"model.{_SCALE}": "the inverse of the number of points"} if version == 2 else {},
            copies={f"{head}_embed.*": f"model.decoder.{head}_embed.*" for head in ("class", "bbox")},
        ),
        options=LayoutOptions(
            unsaved=UNSAVED,
            saved=_saved_options,
            implied={
                "activation_function": ("silu",),
                "encoder_activation_function": ("gelu",),
                "decoder_activation_function": ("relu",),
                "normalize_before": (False,),
                "with_box_refine": (True,),
                "learn_initial_query": (False,),
                "positional_encoding_temperature": (10000,),
                "eval_size": (None,),
                "encode_proj_layers": ([2], (2,)),
                "decoder_offset_scale": (0.5,),
                "batch_norm_eps": (1e-5,),
                "layer_norm_eps": (1e-5,),
            },
        ),
        publishing=Publishing(
            mean=BLACK,
            std=WHITE,
            licences=_LICENCES,
            files=_FILES,
            models=published_models.RTDETR if version == 1 else published_models.RTDETRV2,
            config_files=partial(_config, version=version),
            recipe=partial(recipe, version=version),
        ),
    )


_SCALE = "decoder.layers.{i}.encoder_attn.n_points_scale"
RTDETR = _layout(1)
RTDETRV2 = _layout(2, f"model.{_SCALE}".replace("{i}", "0"))
