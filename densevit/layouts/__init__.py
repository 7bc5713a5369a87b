"""What tables of checkpoint keys import: counting, parts, finding, token positions and label sets."""

from densevit.layouts.finding import backbone_lines, backbone_rearrangement, by_name_only, every, find
from densevit.layouts.label_sets import (
    ade20k_panoptic_classes,
    cityscapes_panoptic_classes,
    coco_classes,
    coco_panoptic_classes,
    instance_classes,
    numbered_classes,
    objects365_classes,
    panoptic_classes,
    preset_classes,
    segmentation_classes,
)
from densevit.layouts.state_dicts import below, count, leading_parts, part
from densevit.layouts.token_positions import GRID, TOKENS, added_to_tokens

__all__ = [
    "GRID",
    "TOKENS",
    "added_to_tokens",
    "ade20k_panoptic_classes",
    "backbone_lines",
    "backbone_rearrangement",
    "below",
    "by_name_only",
    "cityscapes_panoptic_classes",
    "coco_classes",
    "coco_panoptic_classes",
    "count",
    "every",
    "find",
    "instance_classes",
    "leading_parts",
    "numbered_classes",
    "objects365_classes",
    "panoptic_classes",
    "part",
    "preset_classes",
    "segmentation_classes",
]
