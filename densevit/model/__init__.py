"""The model: normalisation, one backbone, a head with its neck for each task; windows and test-time augmentation."""

from densevit.model.build import (
    build_from_sections,
    build_model,
    create_backbone,
    create_head,
    create_neck,
    kinds_of,
    options_without_weights,
    tasks_of,
)
from densevit.model.dense import DenseModel
from densevit.model.inference_sections import inference_by_head, makes_maps, windows_only

__all__ = [
    "DenseModel",
    "build_from_sections",
    "build_model",
    "create_backbone",
    "create_head",
    "create_neck",
    "inference_by_head",
    "kinds_of",
    "makes_maps",
    "options_without_weights",
    "tasks_of",
    "windows_only",
]
