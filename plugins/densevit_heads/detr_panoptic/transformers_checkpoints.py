"""transformers' DetrForSegmentation, on timm's ResNet or its own, with the keys of files and of models.

Files have the keys of transformers 4, also if version 5 writes them, as those of `transformers-detr`.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from densevit.interfaces import CheckpointLayout, Class, Line, StateDict
from densevit_heads.detr import transformers_checkpoints as detector
from densevit_heads.detr.checkpoints import classes_of
from densevit_heads.detr_panoptic.checkpoints import (
    HEAD,
    MASK_LINES,
    OPTIONS,
    UNRECORDED,
    describe,
    detector_lines,
    recipe,
)

MODEL_MASK_LINES = (  # of a model in version 5
    Line("bbox_attention.q_proj.*", f"{HEAD}.attention_maps.query.*"),
    Line("bbox_attention.k_proj.*", f"{HEAD}.attention_maps.key.*"),
    Line("mask_head.conv1.conv.*", f"{HEAD}.mask_head.first.convolution.*"),
    Line("mask_head.conv1.norm.*", f"{HEAD}.mask_head.first.norm.*"),
    Line("mask_head.conv2.conv.*", f"{HEAD}.mask_head.blocks.0.convolution.*"),
    Line("mask_head.conv2.norm.*", f"{HEAD}.mask_head.blocks.0.norm.*"),
    *(
        line
        for i in range(3)
        for line in (
            Line(f"mask_head.fpn_stages.{i}.fpn_adapter.*", f"{HEAD}.mask_head.adapters.{i}.*"),
            Line(f"mask_head.fpn_stages.{i}.refine.conv.*", f"{HEAD}.mask_head.blocks.{i + 1}.convolution.*"),
            Line(f"mask_head.fpn_stages.{i}.refine.norm.*", f"{HEAD}.mask_head.blocks.{i + 1}.norm.*"),
        )
    ),
    Line("mask_head.output_conv.*", f"{HEAD}.mask_head.output.*"),
)


def _classes(state: StateDict, metadata: Mapping[str, Any]) -> dict[str, tuple[Class, ...]]:
    """metadata: `classes`, the names by row from config.json, if present."""
    return {"panoptic": classes_of(len(state["detr.class_labels_classifier.bias"]), metadata.get("classes", ()))}


def _saved_options(state: StateDict, metadata: Mapping[str, Any]) -> dict[str, Any]:
    assert detector.DETR.saved_options is not None
    found = detector.DETR.saved_options(state, metadata)
    return {option.replace(detector.HEAD, OPTIONS): value for option, value in found.items()}


def _config(sections: Mapping[str, Any], state: StateDict, classes: Sequence[Class]) -> dict[str, dict[str, Any]]:
    """A DetrForSegmentation on timm's ResNet, whose keys are ours. It has no pre-norm."""
    assert detector.DETR.config_files is not None
    head = sections["heads"]["panoptic"]["detr"]
    files = detector.DETR.config_files({**sections, "heads": {"detection": head}}, state, classes)
    if not files or head["pre_norm"]:
        return {}
    files["config.json"]["architectures"] = ["DetrForSegmentation"]
    return files


def _layout(name: str, of: CheckpointLayout, masks: tuple[Line, ...], marks: tuple[str, str]) -> CheckpointLayout:
    """of: the detector's layout."""
    return CheckpointLayout(
        name=name,
        part="model",
        marks=(*(f"detr.{mark}" for mark in of.marks), *marks),
        lines=(*detector_lines(of.lines), *masks),
        describe=describe,
        classes=_classes,
        unrecorded=UNRECORDED,
        saved_options=_saved_options,
        recipe=recipe,
        config_files=_config if of.config_files else None,
    )


_FILE = ("bbox_attention.q_linear.weight", "mask_head.lay1.weight")
_MODEL = ("bbox_attention.q_proj.weight", "mask_head.conv1.conv.weight")

PANOPTIC = _layout("transformers-detr-panoptic", detector.DETR, MASK_LINES, _FILE)
PANOPTIC_RESNET = _layout("transformers-detr-panoptic-resnet", detector.DETR_RESNET, MASK_LINES, _FILE)
PANOPTIC_V5 = _layout("transformers-detr-panoptic-v5", detector.DETR_V5, MODEL_MASK_LINES, _MODEL)
PANOPTIC_RESNET_V5 = _layout("transformers-detr-panoptic-resnet-v5", detector.DETR_RESNET_V5, MODEL_MASK_LINES, _MODEL)
