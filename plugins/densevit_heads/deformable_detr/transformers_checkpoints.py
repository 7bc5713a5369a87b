"""transformers' DeformableDetrForObjectDetection, on timm's ResNet or its own, with the keys of files and of models.

Files, including the Hub's, have the keys of transformers 4, also if version 5 writes them; the `state_dict` of a model
in version 5 has other keys.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from densevit.interfaces import CheckpointLayout, Class, Line, OtherKeys, Publishing, SpecialTensors, StateDict
from densevit.layouts import backbone_lines
from densevit_heads.deformable_detr.checkpoints import (
    DECODER,
    ENCODER,
    FILES,
    HEAD,
    LICENCES,
    OPTIONS,
    QUERIES,
    describe,
    known_queries,
    prediction_heads,
    recipe,
    shared_lines,
)
from densevit_heads.deformable_detr.published_models import MODELS
from densevit_heads.parts.attention_checkpoints import deformable_attention, projected_attention
from densevit_heads.parts.detector_checkpoints import FILE, classes_of, id2label, layer_sizes, memory, shared_count


def _lines() -> tuple[Line, ...]:
    """Maps all keys except the backbone's."""
    encoder, decoder = "model.encoder.layers.{i}", "model.decoder.layers.{i}"
    return (
        Line("model.input_proj.{i}.*", f"{HEAD}.levels.projections.{{i}}.*"),
        Line("model.query_position_embeddings.weight", f"{QUERIES}.embedding.weight"),
        *shared_lines("model"),
        Line(f"{encoder}.self_attn_layer_norm.*", f"{ENCODER}.self_attention_norm.*"),
        Line(f"{encoder}.fc1.*", f"{ENCODER}.ffn.expand.*"),
        Line(f"{encoder}.fc2.*", f"{ENCODER}.ffn.contract.*"),
        Line(f"{encoder}.final_layer_norm.*", f"{ENCODER}.ffn_norm.*"),
        *projected_attention(f"{decoder}.self_attn", f"{DECODER}.self_attention"),
        Line(f"{decoder}.self_attn_layer_norm.*", f"{DECODER}.self_attention_norm.*"),
        *deformable_attention(f"{decoder}.encoder_attn", f"{DECODER}.cross_attention"),
        Line(f"{decoder}.encoder_attn_layer_norm.*", f"{DECODER}.cross_attention_norm.*"),
        Line(f"{decoder}.fc1.*", f"{DECODER}.ffn.expand.*"),
        Line(f"{decoder}.fc2.*", f"{DECODER}.ffn.contract.*"),
        Line(f"{decoder}.final_layer_norm.*", f"{DECODER}.ffn_norm.*"),
    )


def _saved_options(state: StateDict, metadata: Mapping[str, Any]) -> dict[str, Any]:
    """From config.json: the dilation of the last stage, and the numbers of attention heads, points and queries."""
    config, options = metadata.get("config", {}), known_queries(state, metadata)
    if config.get("model_type") != "deformable_detr":
        return options
    backbone = config.get("backbone_config") or {}
    options["backbone.dilation"] = bool(config.get("dilation")) or backbone.get("output_stride") == 16
    if config.get("two_stage"):
        options[f"{HEAD}.num_queries"] = config.get("two_stage_num_proposals", 300)
    options |= shared_count(config, "attention_heads", 8, f"{HEAD}.transformer.num_heads")
    return options | shared_count(config, "n_points", 4, f"{HEAD}.num_points")


def _config(sections: Mapping[str, Any], state: StateDict, classes: Sequence[Class]) -> dict[str, dict[str, Any]]:
    """A Deformable DETR on timm's ResNet, whose keys densevit uses."""
    backbone, head = sections["backbone"], sections["heads"]["detection"]
    if "groups" in backbone or backbone.get("norm") == "group" or head["min_stride"] != 8:
        return {}
    transformer = head["transformer"]
    config: dict[str, Any] = {
        "model_type": "deformable_detr",
        "architectures": ["DeformableDetrForObjectDetection"],
        "use_timm_backbone": True,
        "use_pretrained_backbone": False,
        "backbone": f"resnet{backbone['depth']}{'d' if backbone.get('variant') == 'd' else ''}",
        "backbone_config": None,
        "dilation": backbone["dilation"],
        "num_channels": 3,
        "num_queries": head["num_queries"],
        "two_stage_num_proposals": head["num_queries"],
        "d_model": transformer["width"],
        "num_feature_levels": head["num_levels"],
        "with_box_refine": head["box_refinement"],
        "two_stage": head["two_stage"],
        "position_embedding_type": "sine",
        "activation_function": "relu",
    }
    sizes = layer_sizes(
        transformer,
        ffn_dim=transformer["feedforward"],
        attention_heads=transformer["num_heads"],
        n_points=head["num_points"],
    )
    return {
        "config.json": config | sizes | id2label(classes),
        "preprocessor_config.json": {"image_processor_type": "DeformableDetrImageProcessor"},
    }


def _classes(state: StateDict, metadata: Mapping[str, Any]) -> dict[str, tuple[Class, ...]]:
    """metadata: `classes`, the names by row from config.json, if present."""
    bias = "class_embed.0.bias"
    rows = len(state[bias] if bias in state else state[f"model.decoder.{bias}"])
    return {"detection": classes_of(rows + 1, metadata.get("classes", ()))}  # without "no object"


def _layout(
    name: str,
    backbone: tuple[Line, ...],
    signature_key: str,
    publishing: Publishing,
    variants: tuple[CheckpointLayout, ...] = (),
) -> CheckpointLayout:
    return CheckpointLayout(
        name=name,
        signature_keys=(
            FILE + signature_key,
            "model.level_embed",
            "model.input_proj.0.0.weight",
            "model.encoder.layers.0.self_attn.sampling_offsets.weight",
            "model.decoder.layers.0.encoder_attn.sampling_offsets.weight",
            "model.decoder.layers.0.self_attn.out_proj.weight",
        ),
        lines=(*backbone, *_lines()),
        describe=describe,
        classes=_classes,
        other_keys=OtherKeys(spellings=memory("model.decoder.layers.{i}.self_attn")),
        special=SpecialTensors(rearrange=prediction_heads("model")),
        options=replace(OPTIONS, saved=_saved_options, implied={"activation_function": ("relu",)}),
        publishing=publishing,
        variants=variants,
    )


DEFORMABLE_DETR_RESNET = _layout(
    "transformers-deformable-detr-resnet",
    backbone_lines("transformers-resnet", FILE),
    "embedder.embedder.convolution.weight",
    Publishing(licences=LICENCES, files=FILES, recipe=recipe),
)
DEFORMABLE_DETR = _layout(  # on timm's ResNet, whose keys densevit uses
    "transformers-deformable-detr",
    (Line(f"{FILE}*", "backbone.*"),),
    "conv1.weight",
    Publishing(licences=LICENCES, files=FILES, models=MODELS, config_files=_config, recipe=recipe),
    (DEFORMABLE_DETR_RESNET,),
)
