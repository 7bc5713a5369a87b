"""transformers' DFineForObjectDetection on its HGNetV2, with the keys of files and of models.

Files, including the Hub's, have the keys of transformers 4, also if version 5 writes them; the `state_dict` of a model
in version 5 has other keys. Outputs are the same; transformers' loss is not the authors', which ours is.
"""

import re
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from torch import Tensor

from densevit.interfaces import CheckpointLayout, Class, Line, Rearrangement, StateDict
from densevit.weights.state import count
from densevit_heads.attention_checkpoints import deformable_attention
from densevit_heads.detr.transformers_checkpoints import id2label
from densevit_heads.dfine.checkpoints import (
    AIFI,
    DECODER,
    ENCODER,
    HEAD,
    LAYER,
    QUERIES,
    UNRECORDED,
    conv_norm,
    describe,
    fusion_blocks,
    points_and_scale,
    recipe,
)
from densevit_heads.rtdetr.checkpoints import BLACK, LABELS, WHITE, classes_of, mlp

_BACKBONE = "model.backbone.model"
_AIFI, _LAYER = "model.encoder.encoder.0.layers.{i}", "model.decoder.layers.{i}"
_AIFI_IN_MEMORY = _AIFI.replace(".encoder.0", ".aifi.0")


def _backbone_lines() -> tuple[Line, ...]:
    block = "stages.{s}.blocks.{b}"
    places = {f"embedder.{stem}": f"stem.{stem}" for stem in ("stem1", "stem2a", "stem2b", "stem3", "stem4")}
    for place in (
        "stages.{s}.downsample",
        f"{block}.layers.{{l}}",
        f"{block}.layers.{{l}}.conv1",
        f"{block}.layers.{{l}}.conv2",
        f"{block}.aggregation.{{a}}",
    ):
        places[f"encoder.{place}"] = place
    parts = {"convolution": "conv", "normalization": "bn", "lab": "lab"}
    return tuple(
        Line(f"{_BACKBONE}.{theirs}.{part}.*", f"backbone.model.{ours}.{own}.*")
        for theirs, ours in places.items()
        for part, own in parts.items()
    )


def _attention(theirs: str, ours: str) -> tuple[Line, ...]:
    names = {"q_proj": "query", "k_proj": "key", "v_proj": "value", "out_proj": "output"}
    return tuple(Line(f"{theirs}.{name}.*", f"{ours}.{own}.*") for name, own in names.items())


def _lines() -> tuple[Line, ...]:
    parts = {"enter": "conv1", "leave": "conv4", "branches.0.0": "csp_rep1", "branches.0.1": "conv2"}
    parts |= {"branches.1.0": "csp_rep2", "branches.1.1": "conv3"}
    return (
        *_backbone_lines(),
        Line("model.encoder_input_proj.{i}.*", f"{ENCODER}.projections.{{i}}.*"),
        *_attention(f"{_AIFI}.self_attn", f"{AIFI}.self_attention"),
        Line(f"{_AIFI}.fc1.*", f"{AIFI}.feedforward.expand.*"),
        Line(f"{_AIFI}.fc2.*", f"{AIFI}.feedforward.contract.*"),
        Line(f"{_AIFI}.self_attn_layer_norm.*", f"{AIFI}.residuals.0.norm.*"),
        Line(f"{_AIFI}.final_layer_norm.*", f"{AIFI}.residuals.1.norm.*"),
        *conv_norm("model.encoder.lateral_convs.{i}", f"{ENCODER}.laterals.{{i}}"),
        *conv_norm("model.encoder.downsample_convs.{i}.conv1", f"{ENCODER}.downsamples.{{i}}.0"),
        *conv_norm("model.encoder.downsample_convs.{i}.conv2", f"{ENCODER}.downsamples.{{i}}.1"),
        *fusion_blocks("model.encoder", parts),
        Line("model.decoder_input_proj.{i}.*", f"{HEAD}.projections.{{i}}.*"),
        *_attention(f"{_LAYER}.self_attn", f"{LAYER}.self_attention"),
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
