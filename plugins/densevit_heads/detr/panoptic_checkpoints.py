"""facebookresearch/detr's panoptic models (Carion et al. 2020, section 4.4): R50, R50-DC5 and R101, for COCO."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from densevit.interfaces import CheckpointLayout, Class, LayoutOptions, Line, Publishing, StateDict
from densevit_heads.detr import checkpoints as detector
from densevit_heads.parts.detector_checkpoints import head_classes

HEAD = "heads.panoptic"
OPTIONS = f"{HEAD}.detr"  # of the detector
UNSAVED = tuple(option.replace(detector.HEAD, OPTIONS) for option in detector.UNSAVED)


def detector_lines(lines: Sequence[Line]) -> tuple[Line, ...]:
    """Maps the keys of the detector inside a panoptic model, prefixed `detr.`. lines: the detector's key mapping."""
    return tuple(Line(f"detr.{line.foreign_key}", line.key.replace(detector.HEAD, HEAD), line.change) for line in lines)


MASK_LINES = (  # also used by transformers' files
    Line("bbox_attention.q_linear.*", f"{HEAD}.attention_maps.query.*"),
    Line("bbox_attention.k_linear.*", f"{HEAD}.attention_maps.key.*"),
    Line("mask_head.lay1.*", f"{HEAD}.mask_head.first.convolution.*"),
    Line("mask_head.gn1.*", f"{HEAD}.mask_head.first.norm.*"),
    *(
        line
        for i in range(4)
        for line in (
            Line(f"mask_head.lay{i + 2}.*", f"{HEAD}.mask_head.blocks.{i}.convolution.*"),
            Line(f"mask_head.gn{i + 2}.*", f"{HEAD}.mask_head.blocks.{i}.norm.*"),
        )
    ),
    *(Line(f"mask_head.adapter{i + 1}.*", f"{HEAD}.mask_head.adapters.{i}.*") for i in range(3)),
    Line("mask_head.out_lay.*", f"{HEAD}.mask_head.output.*"),
)


def describe(tensors: StateDict) -> dict[str, Any]:
    """The config sections of a panoptic DETR on a ResNet, from tensors with densevit's keys; see `detr`'s layout."""
    sections = detector.describe({key.replace(HEAD, detector.HEAD): tensor for key, tensor in tensors.items()})
    options = {key: value for key, value in sections["heads"]["detection"].items() if key != "name"}
    return {**sections, "heads": {"panoptic": {"name": "detr_panoptic", "detr": options}}}


def recipe(sections: Mapping[str, Any], classes: Mapping[str, Sequence[Class]]) -> tuple[str, dict[str, Any]]:
    """The recipe of training the mask head and of the evaluation on COCO panoptic."""
    return "coco/detr_panoptic_r50", {}


DETR_PANOPTIC = CheckpointLayout(
    name="detr-panoptic",
    signature_keys=(
        *(f"detr.{key}" for key in detector.DETR.signature_keys),
        "bbox_attention.q_linear.weight",
        "mask_head.lay1.weight",
    ),
    lines=(*detector_lines(detector.LINES), *MASK_LINES),
    describe=describe,
    classes=partial(head_classes, bias="detr.class_embed.bias", head="panoptic"),
    options=LayoutOptions(unsaved=UNSAVED),
    publishing=Publishing(licences=detector.LICENCES, files=detector.FILES, recipe=recipe),
)
