"""transformers' DetrForObjectDetection, on timm's ResNet or its own, with the keys of files and of models.

Files, including the Hub's, have the keys of transformers 4, also if version 5 writes them; the `state_dict` of a model
in version 5 has other keys.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from densevit.interfaces import CheckpointLayout, Class, LayoutOptions, Line, OtherKeys, Publishing, StateDict
from densevit.layouts import backbone_lines
from densevit_heads.detr.checkpoints import (
    CLASS_ROWS,
    DECODER,
    ENCODER,
    FILES,
    HEAD,
    LICENCES,
    UNSAVED,
    describe,
    recipe,
)
from densevit_heads.detr.published_models import MODELS
from densevit_heads.parts.attention_checkpoints import projected_attention
from densevit_heads.parts.detector_checkpoints import FILE, head_classes, id2label, layer_sizes, memory, shared_count

_ENCODER, _DECODER = "model.encoder.layers.{i}", "model.decoder.layers.{i}"


_LINES = (
    Line("model.position_embedding.row_embeddings.weight", f"{HEAD}.positions.rows"),
    Line("model.position_embedding.column_embeddings.weight", f"{HEAD}.positions.columns"),
    Line("model.backbone.position_embedding.row_embeddings.weight", f"{HEAD}.positions.rows"),
    Line("model.backbone.position_embedding.column_embeddings.weight", f"{HEAD}.positions.columns"),
    Line("model.input_projection.*", f"{HEAD}.project.project.*"),
    Line("model.query_position_embeddings.weight", f"{HEAD}.query_embedding.weight"),
    *projected_attention(f"{_ENCODER}.self_attn", f"{ENCODER}.self_attention"),
    Line(f"{_ENCODER}.self_attn_layer_norm.*", f"{ENCODER}.residuals.0.norm.*"),
    Line(f"{_ENCODER}.fc1.*", f"{ENCODER}.feedforward.expand.*"),
    Line(f"{_ENCODER}.fc2.*", f"{ENCODER}.feedforward.contract.*"),
    Line(f"{_ENCODER}.final_layer_norm.*", f"{ENCODER}.residuals.1.norm.*"),
    *projected_attention(f"{_DECODER}.self_attn", f"{DECODER}.self_attention"),
    Line(f"{_DECODER}.self_attn_layer_norm.*", f"{DECODER}.residuals.0.norm.*"),
    *projected_attention(f"{_DECODER}.encoder_attn", f"{DECODER}.cross_attention"),
    Line(f"{_DECODER}.encoder_attn_layer_norm.*", f"{DECODER}.residuals.1.norm.*"),
    Line(f"{_DECODER}.fc1.*", f"{DECODER}.feedforward.expand.*"),
    Line(f"{_DECODER}.fc2.*", f"{DECODER}.feedforward.contract.*"),
    Line(f"{_DECODER}.final_layer_norm.*", f"{DECODER}.residuals.2.norm.*"),
    Line("model.encoder.layernorm.*", f"{HEAD}.encoder_norm.*"),  # TableTransformerForObjectDetection
    Line("model.decoder.layernorm.*", f"{HEAD}.decoder_norm.*"),
    Line("class_labels_classifier.weight", f"{HEAD}.label_head.weight", CLASS_ROWS),
    Line("class_labels_classifier.bias", f"{HEAD}.label_head.bias", CLASS_ROWS),
    Line("bbox_predictor.layers.0.*", f"{HEAD}.box_head.0.*"),
    Line("bbox_predictor.layers.1.*", f"{HEAD}.box_head.2.*"),
    Line("bbox_predictor.layers.2.*", f"{HEAD}.box_head.4.*"),
)


def _saved_options(state: StateDict, metadata: Mapping[str, Any]) -> dict[str, Any]:
    """From config.json: whether the last stage is dilated, and the number of attention heads."""
    config = metadata.get("config", {})
    if config.get("model_type") not in ("detr", "table-transformer"):
        return {}
    backbone = config.get("backbone_config") or {}
    dilation, heads = UNSAVED
    options = {dilation: bool(config.get("dilation")) or backbone.get("output_stride") == 16}
    return options | shared_count(config, "attention_heads", 8, heads)


def _config(sections: Mapping[str, Any], state: StateDict, classes: Sequence[Class]) -> dict[str, dict[str, Any]]:
    """A DETR on timm's ResNet, whose keys densevit uses."""
    backbone, head = sections["backbone"], sections["heads"]["detection"]
    if "groups" in backbone or backbone.get("norm") == "group" or head["positions"] != "sine":
        return {}
    first = head["pre_norm"]  # Table Transformer is DETR with pre-norm
    transformer = head["transformer"]
    config: dict[str, Any] = {
        "model_type": "table-transformer" if first else "detr",
        "architectures": ["TableTransformerForObjectDetection" if first else "DetrForObjectDetection"],
        "use_timm_backbone": True,
        "use_pretrained_backbone": False,
        "backbone": f"resnet{backbone['depth']}{'d' if backbone.get('variant') == 'd' else ''}",
        "backbone_config": None,
        "dilation": backbone["dilation"],
        "num_channels": 3,
        "num_queries": head["num_queries"],
        "d_model": transformer["width"],
        "position_embedding_type": "sine",
        "activation_function": "relu",
    }
    sizes = layer_sizes(transformer, ffn_dim=transformer["feedforward"], attention_heads=transformer["num_heads"])
    return {
        "config.json": config | sizes | id2label(classes),
        "preprocessor_config.json": {"image_processor_type": "DetrImageProcessor"},
    }


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
            "model.decoder.layers.0.encoder_attn.out_proj.weight",
            "model.query_position_embeddings.weight",
            "class_labels_classifier.weight",
            "bbox_predictor.layers.0.weight",
        ),
        lines=(*backbone, *_LINES),
        describe=describe,
        classes=partial(head_classes, bias="class_labels_classifier.bias"),
        other_keys=OtherKeys(
            spellings=memory(f"{_ENCODER}.self_attn", f"{_DECODER}.self_attn", f"{_DECODER}.encoder_attn")
        ),
        options=LayoutOptions(unsaved=UNSAVED, saved=_saved_options, implied={"activation_function": ("relu",)}),
        publishing=publishing,
        variants=variants,
    )


DETR_RESNET = _layout(
    "transformers-detr-resnet",
    backbone_lines("transformers-resnet", FILE),
    "embedder.embedder.convolution.weight",
    Publishing(licences=LICENCES, files=FILES, recipe=recipe),
)
DETR = _layout(  # on timm's ResNet, whose keys densevit uses
    "transformers-detr",
    (Line(f"{FILE}*", "backbone.*"),),
    "conv1.weight",
    Publishing(licences=LICENCES, files=FILES, models=MODELS, config_files=_config, recipe=recipe),
    (DETR_RESNET,),
)
