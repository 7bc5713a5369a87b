"""transformers' DetrForSegmentation, on timm's ResNet or its own, with the keys of files and of models.

Files have the keys of transformers 4, also if version 5 writes them, like files of `transformers-detr`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from densevit.interfaces import CheckpointLayout, Class, OtherKeys, Publishing, StateDict
from densevit_heads.detr import transformers_checkpoints as detector
from densevit_heads.detr.panoptic_checkpoints import (
    MASK_LINES,
    OPTIONS,
    UNSAVED,
    describe,
    detector_lines,
    recipe,
)
from densevit_heads.detr.published_panoptic_models import MODELS
from densevit_heads.parts.detector_checkpoints import head_classes

_PARTS = (("conv", "lay"), ("norm", "gn"))
_MASK_HEAD = (  # the keys of a model in version 5, and of its files
    ("bbox_attention.q_proj.*", "bbox_attention.q_linear.*"),
    ("bbox_attention.k_proj.*", "bbox_attention.k_linear.*"),
    *((f"mask_head.conv{i}.{part}.*", f"mask_head.{name}{i}.*") for i in (1, 2) for part, name in _PARTS),
    *((f"mask_head.fpn_stages.{i}.fpn_adapter.*", f"mask_head.adapter{i + 1}.*") for i in range(3)),
    *(
        (f"mask_head.fpn_stages.{i}.refine.{part}.*", f"mask_head.{name}{i + 3}.*")
        for i in range(3)
        for part, name in _PARTS
    ),
    ("mask_head.output_conv.*", "mask_head.out_lay.*"),
)


def _saved_options(state: StateDict, metadata: Mapping[str, Any]) -> dict[str, Any]:
    options = detector.DETR.options.saved(state, metadata)
    return {option.replace(detector.HEAD, OPTIONS): value for option, value in options.items()}


def _config(sections: Mapping[str, Any], state: StateDict, classes: Sequence[Class]) -> dict[str, dict[str, Any]]:
    """A DetrForSegmentation on timm's ResNet, whose keys densevit uses; it supports no pre-norm."""
    head = sections["heads"]["panoptic"]["detr"]
    files = detector.DETR.publishing.config_files({**sections, "heads": {"detection": head}}, state, classes)
    if not files or head["pre_norm"]:
        return {}
    files["config.json"]["architectures"] = ["DetrForSegmentation"]
    return files


def _layout(
    name: str, of: CheckpointLayout, publishing: Publishing, variants: tuple[CheckpointLayout, ...] = ()
) -> CheckpointLayout:
    """of: the detector's layout."""
    return CheckpointLayout(
        name=name,
        signature_keys=(
            *(f"detr.{key}" for key in of.signature_keys),
            "bbox_attention.q_linear.weight",
            "mask_head.lay1.weight",
        ),
        lines=(*detector_lines(of.lines), *MASK_LINES),
        describe=describe,
        classes=partial(head_classes, bias="detr.class_labels_classifier.bias", head="panoptic"),
        other_keys=OtherKeys(
            spellings=(*((f"detr.{source}", f"detr.{name}") for source, name in of.other_keys.spellings), *_MASK_HEAD)
        ),
        options=replace(of.options, unsaved=UNSAVED, saved=_saved_options),
        publishing=publishing,
        variants=variants,
    )


PANOPTIC = _layout(
    "transformers-detr-panoptic",
    detector.DETR,
    replace(detector.DETR.publishing, models=MODELS, config_files=_config, recipe=recipe),
    (
        _layout(
            "transformers-detr-panoptic-resnet",
            detector.DETR_RESNET,
            replace(detector.DETR_RESNET.publishing, recipe=recipe),
        ),
    ),
)
