"""transformers' DetrForObjectDetection, on timm's ResNet or its own, with the keys of files and of models.

Files, including the Hub's, have the keys of transformers 4, also if version 5 writes them; the `state_dict` of a model
in version 5 has other keys.
"""

from collections.abc import Mapping
from typing import Any

from densevit.interfaces import Class
from densevit.weights.key_mapping import Layout, Line, State
from densevit.weights.layouts.detr import CLASS_ROWS, DECODER, ENCODER, HEAD, UNRECORDED, classes_of, described


def _resnet(prefix: str) -> tuple[Line, ...]:
    """transformers' own ResNet; timm's has our keys."""
    lines = [
        Line(f"{prefix}.embedder.embedder.convolution.*", "backbone.conv1.*"),
        Line(f"{prefix}.embedder.embedder.normalization.*", "backbone.bn1.*"),
    ]
    for stage in range(4):
        theirs, ours = f"{prefix}.encoder.stages.{stage}.layers.{{j}}", f"backbone.layer{stage + 1}.{{j}}"
        for layer in range(3):
            lines.append(Line(f"{theirs}.layer.{layer}.convolution.*", f"{ours}.conv{layer + 1}.*"))
            lines.append(Line(f"{theirs}.layer.{layer}.normalization.*", f"{ours}.bn{layer + 1}.*"))
        lines.append(Line(f"{theirs}.shortcut.convolution.*", f"{ours}.downsample.0.*"))
        lines.append(Line(f"{theirs}.shortcut.normalization.*", f"{ours}.downsample.1.*"))
    return tuple(lines)


def _attention(theirs: str, ours: str, out: str) -> tuple[Line, ...]:
    names = {"q_proj": "query", "k_proj": "key", "v_proj": "value", out: "output"}
    return tuple(Line(f"{theirs}.{name}.*", f"{ours}.{own}.*") for name, own in names.items())


def _lines(out: str, fc: str) -> tuple[Line, ...]:
    """Lines without the backbone's. out, fc: the names of attention output projections and of MLP layers."""
    encoder, decoder = "model.encoder.layers.{i}", "model.decoder.layers.{i}"
    return (
        Line("model.position_embedding.row_embeddings.weight", f"{HEAD}.positions.rows"),
        Line("model.position_embedding.column_embeddings.weight", f"{HEAD}.positions.columns"),
        Line("model.backbone.position_embedding.row_embeddings.weight", f"{HEAD}.positions.rows"),
        Line("model.backbone.position_embedding.column_embeddings.weight", f"{HEAD}.positions.columns"),
        Line("model.input_projection.*", f"{HEAD}.project.project.*"),
        Line("model.query_position_embeddings.weight", f"{HEAD}.query_embedding.weight"),
        *_attention(f"{encoder}.self_attn", f"{ENCODER}.self_attention", out),
        Line(f"{encoder}.self_attn_layer_norm.*", f"{ENCODER}.residuals.0.norm.*"),
        Line(f"{encoder}.{fc}1.*", f"{ENCODER}.feedforward.expand.*"),
        Line(f"{encoder}.{fc}2.*", f"{ENCODER}.feedforward.contract.*"),
        Line(f"{encoder}.final_layer_norm.*", f"{ENCODER}.residuals.1.norm.*"),
        *_attention(f"{decoder}.self_attn", f"{DECODER}.self_attention", out),
        Line(f"{decoder}.self_attn_layer_norm.*", f"{DECODER}.residuals.0.norm.*"),
        *_attention(f"{decoder}.encoder_attn", f"{DECODER}.cross_attention", out),
        Line(f"{decoder}.encoder_attn_layer_norm.*", f"{DECODER}.residuals.1.norm.*"),
        Line(f"{decoder}.{fc}1.*", f"{DECODER}.feedforward.expand.*"),
        Line(f"{decoder}.{fc}2.*", f"{DECODER}.feedforward.contract.*"),
        Line(f"{decoder}.final_layer_norm.*", f"{DECODER}.residuals.2.norm.*"),
        Line("model.encoder.layernorm.*", f"{HEAD}.encoder_norm.*"),  # TableTransformerForObjectDetection
        Line("model.decoder.layernorm.*", f"{HEAD}.decoder_norm.*"),
        Line("class_labels_classifier.weight", f"{HEAD}.label_head.weight", CLASS_ROWS),
        Line("class_labels_classifier.bias", f"{HEAD}.label_head.bias", CLASS_ROWS),
        Line("bbox_predictor.layers.0.*", f"{HEAD}.box_head.0.*"),
        Line("bbox_predictor.layers.1.*", f"{HEAD}.box_head.2.*"),
        Line("bbox_predictor.layers.2.*", f"{HEAD}.box_head.4.*"),
    )


def _layout(name: str, backbone: tuple[Line, ...], mark: str, out: str, fc: str) -> Layout:
    lines = (*backbone, *_lines(out, fc))
    return Layout(
        name=name,
        part="model",
        marks=(
            mark,
            f"model.decoder.layers.0.encoder_attn.{out}.weight",
            "model.query_position_embeddings.weight",
            "class_labels_classifier.weight",
            "bbox_predictor.layers.0.weight",
        ),
        lines=lines,
        describe=described(lines),
        classes=_classes,
        unrecorded=UNRECORDED,
    )


def _classes(state: State, metadata: Mapping[str, Any]) -> dict[str, tuple[Class, ...]]:
    """metadata: `classes`, the names by row from config.json, if present."""
    return {"detection": classes_of(len(state["class_labels_classifier.bias"]), metadata.get("classes", ()))}


_FILE, _MEMORY = "model.backbone.conv_encoder.model", "model.backbone.model"
_TIMM, _OWN = "conv1.weight", "embedder.embedder.convolution.weight"

LAYOUTS = (
    _layout("transformers-detr", (Line(f"{_FILE}.*", "backbone.*"),), f"{_FILE}.{_TIMM}", "out_proj", "fc"),
    _layout("transformers-detr-resnet", _resnet(_FILE), f"{_FILE}.{_OWN}", "out_proj", "fc"),
    _layout("transformers-detr-v5", (Line(f"{_MEMORY}.*", "backbone.*"),), f"{_MEMORY}.{_TIMM}", "o_proj", "mlp.fc"),
    _layout("transformers-detr-resnet-v5", _resnet(_MEMORY), f"{_MEMORY}.{_OWN}", "o_proj", "mlp.fc"),
)
