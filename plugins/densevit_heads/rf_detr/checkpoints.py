"""The heads of roboflow/rf-detr and Atten4Vis/LW-DETR, with the authors' names and with transformers'.

Files of transformers' RF-DETR have the authors' names.
"""

from densevit.interfaces import Line
from densevit_heads.attention_checkpoints import deformable_attention, fused_attention
from densevit_heads.deformable_detr.checkpoints import CLASS_ROWS
from densevit_heads.rtdetr.checkpoints import mlp

HEAD = "heads.detection"
LAYER, GROUP = f"{HEAD}.decoder.{{i}}", f"{HEAD}.queries.groups.{{i}}"


def _labels(theirs: str, ours: str) -> tuple[Line, ...]:
    return tuple(Line(f"{theirs}.{x}", f"{ours}.{x}", CLASS_ROWS) for x in ("weight", "bias"))


def _shared(transformer: str, decoder_norm: str, offsets: str) -> tuple[Line, ...]:
    """The lines that both projects have. transformer: its prefix. The others: their names of these parts."""
    layer = f"{transformer}.decoder.layers.{{i}}"
    return (
        Line(f"{transformer}.enc_output.{{i}}.*", f"{GROUP}.project.*"),
        Line(f"{transformer}.enc_output_norm.{{i}}.*", f"{GROUP}.norm.*"),
        *_labels(f"{transformer}.enc_out_class_embed.{{i}}", f"{GROUP}.label_head"),
        *mlp(f"{transformer}.enc_out_bbox_embed.{{i}}", f"{GROUP}.box_head"),
        *deformable_attention(f"{layer}.cross_attn", f"{LAYER}.cross_attention"),
        *mlp(f"{transformer}.decoder.ref_point_head", f"{HEAD}.query_positions", 2),
        Line(f"{transformer}.decoder.{decoder_norm}.*", f"{HEAD}.decoder_norm.*"),
        Line(f"{offsets}.weight", f"{HEAD}.queries.offsets.weight"),
        *_labels("class_embed", f"{HEAD}.label_head"),
        *mlp("bbox_embed", f"{HEAD}.box_head"),
    )


def _lines() -> tuple[Line, ...]:
    layer, masks = "transformer.decoder.layers.{i}", f"{HEAD}.mask_branch"
    parts = {
        "norm1": "self_attention_norm", "norm2": "cross_attention_norm", "norm3": "ffn_norm",
        "linear1": "ffn.expand", "linear2": "ffn.contract",
    }  # fmt: skip
    of_masks = {
        "blocks.{i}.dwconv": "blocks.{i}.depthwise", "blocks.{i}.norm": "blocks.{i}.norm",
        "blocks.{i}.pwconv1": "blocks.{i}.pointwise", "spatial_features_proj": "pixel_project",
        "query_features_block.norm_in": "query_norm", "query_features_block.layers.0": "query_ffn.expand",
        "query_features_block.layers.2": "query_ffn.contract", "query_features_proj": "query_project",
    }  # fmt: skip
    return (
        *_shared("transformer", "norm", "refpoint_embed"),
        Line("query_feat.weight", f"{HEAD}.queries.contents.weight"),
        *fused_attention(f"{layer}.self_attn", f"{LAYER}.self_attention"),
        *(Line(f"{layer}.{name}.*", f"{LAYER}.{own}.*") for name, own in parts.items()),
        *(Line(f"segmentation_head.{name}.*", f"{masks}.{own}.*") for name, own in of_masks.items()),
        Line("segmentation_head.bias", f"{masks}.bias"),
    )


def _transformers_lines() -> tuple[Line, ...]:
    layer = "model.decoder.layers.{i}"
    parts = {
        "self_attn.q_proj": "self_attention.query", "self_attn.k_proj": "self_attention.key",
        "self_attn.v_proj": "self_attention.value", "self_attn.o_proj": "self_attention.output",
        "self_attn_layer_norm": "self_attention_norm", "cross_attn_layer_norm": "cross_attention_norm",
        "mlp.fc1": "ffn.expand", "mlp.fc2": "ffn.contract", "layer_norm": "ffn_norm",
    }  # fmt: skip
    return (
        *_shared("model", "layernorm", "model.reference_point_embed"),
        Line("model.query_feat.weight", f"{HEAD}.queries.contents.weight"),
        *(Line(f"{layer}.{name}.*", f"{LAYER}.{own}.*") for name, own in parts.items()),
    )


LINES = _lines()
TRANSFORMERS_LINES = _transformers_lines()  # of LW-DETR
