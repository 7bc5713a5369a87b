"""facebookresearch/Mask2Former (Cheng et al. 2022): complete models on a Swin or a ResNet.

Tensors do not determine the task. A layout has one variant per task: checkpoints are read as panoptic segmentation,
with 80 classes (COCO's objects) as instance segmentation. For semantic segmentation, name the layout with `-semantic`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from densevit.errors import WeightsError
from densevit.interfaces import CheckpointLayout, Class, Licences, Line, Publishing, SpecialTensors, StateDict
from densevit.layouts import backbone_lines, count, find, part
from densevit.set_prediction.mask_segments import Task
from densevit_heads.mask2former.pixel_decoder import NUM_LEVELS, NUM_POINTS
from densevit_heads.mask2former.published_models import MODELS
from densevit_heads.parts.attention_checkpoints import deformable_attention, fused_attention
from densevit_heads.parts.class_map_checkpoints import label_maps
from densevit_heads.parts.mask_checkpoints import KEYS, task_classes

LICENCES = Licences(
    "MIT",
    "CC-BY-NC-4.0",
    "ImageNet; COCO, ADE20K or Cityscapes",
    "none",
    "https://github.com/facebookresearch/Mask2Former/blob/9b0651c/MODEL_ZOO.md",
    "2026-11-29",
)
FILES = {"hf:facebook/mask2former-*": LICENCES}

NAMES: dict[Task, str] = {
    "panoptic": "mask2former",
    "instance": "mask2former_instance",
    "semantic": "mask2former_semantic",
}
_COCO_THINGS = 80
_SWIN = "microsoft-swin-dense"  # transformers' SwinBackbone has the same shift rule


def encoder_lines(source: str, target: str, names: tuple[str, str, str, str]) -> tuple[Line, ...]:
    """Maps the keys of the pixel decoder's layers. names: the keys of the two norms and the two linear layers."""
    targets = ("self_attention_norm", "ffn_norm", "ffn.expand", "ffn.contract")
    return (
        *deformable_attention(f"{source}.self_attn", f"{target}.self_attention"),
        *(Line(f"{source}.{name}.*", f"{target}.{part}.*") for name, part in zip(names, targets, strict=True)),
    )


def _head_lines(head: str) -> tuple[Line, ...]:
    source, pixels = "sem_seg_head.pixel_decoder", f"{head}.pixel_decoder"
    predictor, decoder, layer = "sem_seg_head.predictor", f"{head}.decoder", f"{head}.decoder.layers.{{i}}"
    self_attention, cross_attention, ffn = (
        f"{predictor}.transformer_{layers}_layers.{{i}}" for layers in ("self_attention", "cross_attention", "ffn")
    )
    return (
        Line(f"{source}.input_proj.{{i}}.*", f"{pixels}.projections.{{i}}.*"),
        Line(f"{source}.transformer.level_embed", f"{pixels}.level_embedding"),
        *encoder_lines(
            f"{source}.transformer.encoder.layers.{{i}}",
            f"{pixels}.encoder.{{i}}",
            ("norm1", "norm2", "linear1", "linear2"),
        ),
        Line(f"{source}.mask_features.*", f"{pixels}.mask_features.*"),
        Line(f"{predictor}.query_feat.weight", f"{decoder}.contents.weight"),
        Line(f"{predictor}.query_embed.weight", f"{decoder}.positions.weight"),
        Line(f"{predictor}.level_embed.weight", f"{decoder}.level_embedding.weight"),
        Line(f"{predictor}.decoder_norm.*", f"{decoder}.norm.*"),
        Line(f"{predictor}.class_embed.*", f"{decoder}.label_head.*"),
        *(Line(f"{predictor}.mask_embed.layers.{i}.*", f"{decoder}.mask_head.{2 * i}.*") for i in range(3)),
        Line(f"{source}.adapter_1.weight", f"{pixels}.laterals.0.0.weight"),
        Line(f"{source}.adapter_1.norm.*", f"{pixels}.laterals.0.1.*"),
        Line(f"{source}.layer_1.weight", f"{pixels}.outputs.0.0.weight"),
        Line(f"{source}.layer_1.norm.*", f"{pixels}.outputs.0.1.*"),
        *fused_attention(f"{self_attention}.self_attn", f"{layer}.self_attention"),
        Line(f"{self_attention}.norm.*", f"{layer}.self_attention_norm.*"),
        *fused_attention(f"{cross_attention}.multihead_attn", f"{layer}.cross_attention"),
        Line(f"{cross_attention}.norm.*", f"{layer}.cross_attention_norm.*"),
        Line(f"{ffn}.linear1.*", f"{layer}.ffn.expand.*"),
        Line(f"{ffn}.linear2.*", f"{layer}.ffn.contract.*"),
        Line(f"{ffn}.norm.*", f"{layer}.ffn_norm.*"),
    )


def _resnet_lines() -> tuple[Line, ...]:
    """Maps the keys of detectron2's ResNet."""
    parts = {f"conv{i}": (f"conv{i}", f"bn{i}") for i in range(1, 4)} | {"shortcut": ("downsample.0", "downsample.1")}
    return (
        Line("backbone.stem.conv1.weight", "backbone.conv1.weight"),
        Line("backbone.stem.conv1.norm.*", "backbone.bn1.*"),
        *(
            line
            for stage in range(1, 5)
            for name, (conv, norm) in parts.items()
            for line in (
                Line(f"backbone.res{stage + 1}.{{b}}.{name}.weight", f"backbone.layer{stage}.{{b}}.{conv}.weight"),
                Line(f"backbone.res{stage + 1}.{{b}}.{name}.norm.*", f"backbone.layer{stage}.{{b}}.{norm}.*"),
            )
        ),
    )


def describe(tensors: StateDict, task: Task) -> dict[str, Any]:
    """The config sections of a Mask2Former, from tensors with densevit's keys."""
    resnet = "backbone.conv1.weight" in tensors
    backbone = find("torchvision-resnet" if resnet else _SWIN).describe(part(tensors, "backbone."))["backbone"]
    head = f"heads.{KEYS[task]}"
    queries, width = tensors[f"{head}.decoder.contents.weight"].shape
    rows = len(tensors[f"{head}.pixel_decoder.encoder.0.self_attention.weights.bias"])
    num_heads, rest = divmod(rows, NUM_LEVELS * NUM_POINTS)
    if rest:
        raise WeightsError(
            f"Attention weights have {rows} rows; expected a multiple of {NUM_LEVELS * NUM_POINTS}, {NUM_LEVELS} "
            f"levels times {NUM_POINTS} points."
        )
    if resnet:
        counted = "backbone.bn1.num_batches_tracked" in tensors  # detectron2's are frozen
        backbone |= {"dilation": False, "norm": "batch" if counted else "frozen"}
    return {
        "backbone": backbone,
        "heads": {
            KEYS[task]: {
                "name": NAMES[task],
                "num_queries": queries,
                "transformer": {
                    "width": width,
                    "num_heads": num_heads,
                    "decoder_layers": count(tensors, rf"{head}\.decoder\.layers\.(\d+)\..*"),
                    "feedforward": len(tensors[f"{head}.decoder.layers.0.ffn.expand.weight"]),
                },
                "pixel_decoder": {
                    "layers": count(tensors, rf"{head}\.pixel_decoder\.encoder\.(\d+)\..*"),
                    "feedforward": len(tensors[f"{head}.pixel_decoder.encoder.0.ffn.expand.weight"]),
                    "mask_padding": False,
                },
            }
        },
    }


def recipe(sections: Mapping[str, Any], classes: Mapping[str, Sequence[Class]]) -> tuple[str, dict[str, Any]]:
    """The recipe of training and evaluation on the data set with this number of classes; without one, on COCO, or for
    semantic segmentation on label maps of the classes.
    """
    backbone, [(key, head)] = sections["backbone"], sections["heads"].items()
    ade20k = f"ade20k/mask2former_swin_{'large' if backbone.get('variant') in ('base', 'large') else 'tiny'}"
    count = len(classes.get(key, ()))
    if head["name"] == NAMES["instance"]:
        return "coco/mask2former_r50", {}
    if head["name"] == NAMES["semantic"]:
        if count not in (19, 150):
            return ade20k, label_maps(classes.get(key, ()))
        return ade20k, {} if count == 150 else {"data": "configs/data/cityscapes.yaml"}
    if count in (19, 150):
        return ade20k, {"data": f"configs/data/{'ade20k' if count == 150 else 'cityscapes'}_panoptic.yaml"}
    return f"coco/mask2former_{'swin_large' if backbone.get('variant') == 'large' else 'r50'}_panoptic", {}


def for_task(layout: CheckpointLayout, task: Task, row: str, lines: tuple[Line, ...]) -> CheckpointLayout:
    """Adds the head of a task to a layout of the backbone. row: key of the bias of the class logits."""
    swin = find(_SWIN).options
    models = {name: model for name, model in layout.publishing.models.items() if model.task == KEYS[task]}
    return replace(
        layout,
        name=layout.name if task == "panoptic" else f"{layout.name}-{task}",
        lines=(*layout.lines, *lines),
        describe=lambda tensors: describe(tensors, task),
        fits=lambda state, _: task == ("instance" if len(state[row]) - 1 == _COCO_THINGS else "panoptic"),
        classes=partial(task_classes, task=task, bias=row),
        special=SpecialTensors(
            no_effect={**layout.special.no_effect, "criterion.empty_weight": "the weights of classes in the loss"}
        ),
        options=replace(
            layout.options,
            runtime=swin.runtime,
            project_defaults=(*swin.project_defaults, f"heads.{KEYS[task]}.pixel_decoder.mask_padding"),
        ),
        publishing=replace(layout.publishing, recipe=recipe, models=models),
    )


def with_variants(
    swin: Callable[[Task], CheckpointLayout], resnet: Callable[[Task], CheckpointLayout]
) -> CheckpointLayout:
    """The layout of a panoptic model on a Swin, with the other tasks and backbones as variants."""
    first, *variants = [of(task) for of in (swin, resnet) for task in NAMES]
    return replace(first, variants=tuple(variants))


def _layout(
    name: str, task: Task, backbone: tuple[Line, ...], signature_key: str, constants: Mapping[str, str]
) -> CheckpointLayout:
    layout = CheckpointLayout(
        name=name,
        signature_keys=(
            signature_key,
            "sem_seg_head.pixel_decoder.transformer.level_embed",
            "sem_seg_head.predictor.transformer_cross_attention_layers.0.multihead_attn.in_proj_weight",
            "sem_seg_head.predictor.query_feat.weight",
        ),
        lines=backbone,
        describe=lambda tensors: {},
        special=SpecialTensors(no_effect=constants),
        publishing=Publishing(licences=LICENCES, files=FILES, models=MODELS.get(name, {})),
    )
    return for_task(layout, task, "sem_seg_head.predictor.class_embed.bias", _head_lines(f"heads.{KEYS[task]}"))


def _swin(task: Task) -> CheckpointLayout:
    index = {"backbone.layers.{s}.blocks.{b}.attn.relative_position_index": "derived from the window size"}
    return _layout("mask2former", task, backbone_lines(_SWIN, "backbone."), "backbone.patch_embed.proj.weight", index)


def _resnet(task: Task) -> CheckpointLayout:
    return _layout("mask2former-resnet", task, _resnet_lines(), "backbone.stem.conv1.weight", {})


MASK2FORMER = with_variants(_swin, _resnet)
