"""The model: normalisation, one backbone, a head with its neck for each task; windows and test-time augmentation."""

from densevit.model.architecture import (
    Architecture,
    BackboneArchitecture,
    HeadArchitecture,
    LoraArchitecture,
    NeckArchitecture,
    options_without_weights,
)
from densevit.model.build import (
    backbone_from,
    build_backbone,
    build_from_architecture,
    classes_by_head,
    create_head,
    create_neck,
    kinds_of,
    tasks_of,
)
from densevit.model.dense import DenseModel
from densevit.model.head_inference import inference_by_head, windows_only
from densevit.model.inference_options import Inference

__all__ = [
    "Architecture",
    "BackboneArchitecture",
    "DenseModel",
    "HeadArchitecture",
    "Inference",
    "LoraArchitecture",
    "NeckArchitecture",
    "backbone_from",
    "build_backbone",
    "build_from_architecture",
    "classes_by_head",
    "create_head",
    "create_neck",
    "inference_by_head",
    "kinds_of",
    "options_without_weights",
    "tasks_of",
    "windows_only",
]
