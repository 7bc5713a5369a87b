"""Target types: how a label is transformed with its image, drawn, written and read.

Each built-in type is registered under the key of `Targets` or `Predictions` for which it is the default.
"""

from densevit.targets.focal_lengths import FocalLength
from densevit.targets.image_classes import ClassScores, ImageClass, ImageScore
from densevit.targets.keypoints import Keypoints
from densevit.targets.object_scores import Scores
from densevit.targets.object_targets import Areas, Boxes, CrowdFlags, InstanceMasks, ObjectLabels
from densevit.targets.panoptic_maps import PanopticCrowds, PanopticMap
from densevit.targets.pixel_maps import Depth, InverseDepth, PixelMap, ValueMap, VectorMap
from densevit.targets.run_length_masks import RunLengthMasks
from densevit.targets.semantic_maps import LabelMap
from densevit.targets.types import TargetTypes, is_metadata

__all__ = [
    "Areas",
    "Boxes",
    "ClassScores",
    "CrowdFlags",
    "Depth",
    "FocalLength",
    "ImageClass",
    "ImageScore",
    "InstanceMasks",
    "InverseDepth",
    "Keypoints",
    "LabelMap",
    "ObjectLabels",
    "PanopticCrowds",
    "PanopticMap",
    "PixelMap",
    "RunLengthMasks",
    "Scores",
    "TargetTypes",
    "ValueMap",
    "VectorMap",
    "is_metadata",
]
