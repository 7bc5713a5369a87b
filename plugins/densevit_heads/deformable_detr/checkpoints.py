"""fundamentalvision/Deformable-DETR (Zhu et al. 2021): complete models on a ResNet, as trained on COCO."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from densevit.errors import WeightsError
from densevit.interfaces import (
    CheckpointLayout,
    Class,
    LayoutOptions,
    Licences,
    Line,
    Publishing,
    Rearrangement,
    SpecialTensors,
    StateDict,
)
from densevit.layouts import count, find, part
from densevit_heads.parts.attention_checkpoints import deformable_attention, fused_attention
from densevit_heads.parts.detector_checkpoints import class_rows, classes_of

LICENCES = Licences(
    "Apache-2.0",
    "Apache-2.0",
    "ImageNet, COCO",
    "none",
    "https://github.com/fundamentalvision/Deformable-DETR/blob/11169a6/README.md",
    "2026-11-29",
)
FILES = {"r50_deformable_detr*.pth": LICENCES, "hf:SenseTime/deformable-detr*": LICENCES}

HEAD = "heads.detection"
ENCODER, DECODER, QUERIES = f"{HEAD}.encoder.{{i}}", f"{HEAD}.decoder.{{i}}", f"{HEAD}.queries"

OPTIONS = LayoutOptions(
    unsaved=("backbone.dilation", f"{HEAD}.transformer.num_heads", f"{HEAD}.num_points", f"{HEAD}.num_queries"),
    project_defaults=(f"{HEAD}.blank_padding",),
)
NUM_HEADS = 8  # of all releases; tensors show only the product of heads and points
_STRIDES = (4, 8, 16, 32)  # of a ResNet


CLASS_ROWS, PROPOSAL_ROWS = class_rows(no_object=False), class_rows(no_object=False, objectness=True)


def prediction_heads(transformer: str) -> Rearrangement:
    """The rearrangement of class and box heads. Files store one per decoder layer, as copies if all layers share it,
    and with box refinement again under `decoder`.

    `forward` keeps one of the copies: `class_embed.0` and `bbox_embed.0` if all layers share them. In the two-stage
    variant, it renames the last heads to `proposals.class_embed` and `proposals.bbox_embed`. It leaves out `total_ops`
    and `total_params`, the operation counts of some files.
    transformer: the prefix of the keys, "transformer" or "model".
    """
    copied = re.compile(rf"{transformer}\.decoder\.((?:class|bbox)_embed\.\d+\..*)")
    layered = re.compile(r"(class|bbox)_embed\.(\d+)\.(.*)")

    def depth(state: StateDict) -> int:
        return count(state, rf"{transformer}\.decoder\.layers\.(\d+)\..*")

    def into(state: StateDict) -> dict[str, Tensor]:
        result = {key: x for key, x in state.items() if not key.endswith((".total_ops", ".total_params"))}
        refined = False
        for key in state:
            if match := copied.fullmatch(key):
                refined = True
                if match[1] not in result or torch.equal(result[match[1]], state[key]):
                    result[match[1]] = result.pop(key)
        for key in [key for key in result if layered.fullmatch(key)]:
            head, layer, rest = layered.fullmatch(key).groups()  # type: ignore[union-attr]
            first = result.get(f"{head}_embed.0.{rest}")
            if f"{transformer}.enc_output.weight" in state and int(layer) == depth(state):
                result[f"proposals.{head}_embed.{rest}"] = result.pop(key)
            elif not refined and layer != "0" and first is not None and torch.equal(first, result[key]):
                del result[key]
        if refined:  # transformers 5 stores a class layer that all decoder layers share once
            for layer in range(1, depth(state)):
                for rest in ("weight", "bias"):
                    if f"class_embed.0.{rest}" in result:
                        result.setdefault(f"class_embed.{layer}.{rest}", result[f"class_embed.0.{rest}"])
        return result

    def back(state: StateDict) -> dict[str, Tensor]:
        result = {key: value for key, value in state.items() if not key.startswith("proposals.")}
        layers = depth(state)
        heads = [(key, *match.groups()) for key in result if (match := layered.fullmatch(key))]
        if all(layer == "0" for _, _, layer, _ in heads) and not any(key.startswith("proposals.") for key in state):
            for key, head, _, rest in heads:
                result |= {f"{head}_embed.{layer}.{rest}": result[key] for layer in range(layers)}
            return result
        for key in state:
            if match := re.fullmatch(r"proposals\.(class|bbox)_embed\.(.*)", key):
                result[f"{match[1]}_embed.{layers}.{match[2]}"] = state[key]
        kinds = "class|bbox" if f"{transformer}.enc_output.weight" in result else "bbox"
        for key in [key for key in result if re.match(rf"(?:{kinds})_embed\.", key)]:
            result[f"{transformer}.decoder.{key}"] = result[key]
        return result

    return Rearrangement(into, back)


def shared_lines(transformer: str) -> tuple[Line, ...]:
    """Maps the keys that the authors' and transformers' layouts share. transformer: "transformer" or "model"."""
    return (
        Line(f"{transformer}.level_embed", f"{HEAD}.levels.embedding"),
        Line(f"{transformer}.reference_points.*", f"{QUERIES}.reference.*"),
        Line(f"{transformer}.enc_output.*", f"{QUERIES}.project.*"),
        Line(f"{transformer}.enc_output_norm.*", f"{QUERIES}.norm.*"),
        Line(f"{transformer}.pos_trans.*", f"{QUERIES}.embed.*"),
        Line(f"{transformer}.pos_trans_norm.*", f"{QUERIES}.embed_norm.*"),
        *deformable_attention(f"{transformer}.encoder.layers.{{i}}.self_attn", f"{ENCODER}.self_attention"),
        *(Line(f"class_embed.{{i}}.{x}", f"{HEAD}.label_heads.{{i}}.{x}", CLASS_ROWS) for x in ("weight", "bias")),
        *(Line(f"proposals.class_embed.{x}", f"{QUERIES}.label_head.{x}", PROPOSAL_ROWS) for x in ("weight", "bias")),
        *(Line(f"bbox_embed.{{i}}.layers.{x}.*", f"{HEAD}.box_heads.{{i}}.{2 * x}.*") for x in range(3)),
        *(Line(f"proposals.bbox_embed.layers.{x}.*", f"{QUERIES}.box_head.{2 * x}.*") for x in range(3)),
    )


def _lines() -> tuple[Line, ...]:
    encoder, decoder = "transformer.encoder.layers.{i}", "transformer.decoder.layers.{i}"
    return (
        Line("backbone.0.body.*", "backbone.*"),
        Line("input_proj.{i}.*", f"{HEAD}.levels.projections.{{i}}.*"),
        Line("query_embed.weight", f"{QUERIES}.embedding.weight"),
        *shared_lines("transformer"),
        Line(f"{encoder}.norm1.*", f"{ENCODER}.self_attention_norm.*"),
        Line(f"{encoder}.linear1.*", f"{ENCODER}.ffn.expand.*"),
        Line(f"{encoder}.linear2.*", f"{ENCODER}.ffn.contract.*"),
        Line(f"{encoder}.norm2.*", f"{ENCODER}.ffn_norm.*"),
        *fused_attention(f"{decoder}.self_attn", f"{DECODER}.self_attention"),
        Line(f"{decoder}.norm2.*", f"{DECODER}.self_attention_norm.*"),  # in the order of the authors' constructor
        *deformable_attention(f"{decoder}.cross_attn", f"{DECODER}.cross_attention"),
        Line(f"{decoder}.norm1.*", f"{DECODER}.cross_attention_norm.*"),
        Line(f"{decoder}.linear1.*", f"{DECODER}.ffn.expand.*"),
        Line(f"{decoder}.linear2.*", f"{DECODER}.ffn.contract.*"),
        Line(f"{decoder}.norm3.*", f"{DECODER}.ffn_norm.*"),
    )


def describe(tensors: StateDict) -> dict[str, Any]:
    """The config sections of a Deformable DETR on a ResNet, from tensors with densevit's keys.

    Tensor shapes do not determine the number of attention heads, which is 8 in all releases and whose product with the
    number of points is known, the dilation of the last stage ("DC5"), which is assumed to be none, and with two stages
    the number of queries, which is 300.
    """
    resnet = find("torchvision-resnet").describe(part(tensors, "backbone."))
    num_levels, width = tensors[f"{HEAD}.levels.embedding"].shape
    weights = {
        name: len(tensors[f"{HEAD}.{name}.weights.bias"])
        for name in ("encoder.0.self_attention", "decoder.0.cross_attention")
    }
    points, rest = divmod(max(weights.values()), NUM_HEADS * num_levels)
    if rest or len(set(weights.values())) > 1:
        raise WeightsError(
            f"Attention weights of {weights} rows for {num_levels} levels: expected the same number in encoder and "
            f"decoder, {NUM_HEADS} heads times the levels times the points."
        )
    used = sum(tensors[f"{HEAD}.levels.projections.{i}.0.weight"].shape[-1] == 1 for i in range(num_levels))
    two_stage = f"{QUERIES}.project.weight" in tensors
    return {
        "backbone": {**resnet["backbone"], "dilation": False, "norm": "frozen", "frozen_stages": 2},
        "heads": {
            "detection": {
                "name": "deformable_detr",
                "num_queries": 300 if two_stage else len(tensors[f"{QUERIES}.embedding.weight"]),
                "transformer": {
                    "width": width,
                    "num_heads": NUM_HEADS,
                    "encoder_layers": count(tensors, r"heads\.detection\.encoder\.(\d+)\..*"),
                    "decoder_layers": count(tensors, r"heads\.detection\.decoder\.(\d+)\..*"),
                    "feedforward": len(tensors[f"{HEAD}.decoder.0.ffn.expand.weight"]),
                },
                "num_levels": num_levels,
                "min_stride": 8 if num_levels == 1 else _STRIDES[-used],
                "num_points": points,
                "box_refinement": two_stage or f"{HEAD}.label_heads.1.weight" in tensors,
                "two_stage": two_stage,
                "blank_padding": False,
            }
        },
    }


def recipe(sections: Mapping[str, Any], classes: Mapping[str, Sequence[Class]]) -> tuple[str, dict[str, Any]]:
    """The recipe of training and evaluation on COCO."""
    two_stage = sections["heads"]["detection"]["two_stage"]
    return f"coco/deformable_detr_r50{'_two_stage' if two_stage else ''}", {}


def known_queries(state: StateDict, metadata: Mapping[str, Any]) -> dict[str, Any]:
    """The number of queries, if they are learned."""
    names = ("query_embed.weight", "model.query_position_embeddings.weight")
    return {f"{HEAD}.num_queries": len(state[name]) for name in names if name in state}


def _classes(state: StateDict, metadata: Mapping[str, Any]) -> dict[str, tuple[Class, ...]]:
    rows = len(state["class_embed.0.bias"])
    return {"detection": classes_of(rows + 1, metadata.get("classes", ()))}  # without "no object"


DEFORMABLE_DETR = CheckpointLayout(
    name="deformable-detr",
    signature_keys=(
        "backbone.0.body.conv1.weight",
        "transformer.level_embed",
        "transformer.decoder.layers.0.cross_attn.sampling_offsets.weight",
        "input_proj.0.0.weight",
        "class_embed.0.weight",
        "bbox_embed.0.layers.0.weight",
    ),
    lines=_lines(),
    describe=describe,
    classes=_classes,
    special=SpecialTensors(rearrange=prediction_heads("transformer")),
    options=replace(OPTIONS, saved=known_queries),
    publishing=Publishing(licences=LICENCES, files=FILES, recipe=recipe),
)
