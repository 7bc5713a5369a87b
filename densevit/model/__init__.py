"""The model: normalisation, one backbone, and a head with its neck for each task, and test-time augmentation."""

from densevit.model.build import (
    build_from_sections,
    build_model,
    create_backbone,
    create_head,
    create_neck,
    kinds_of,
    tasks_of,
)
from densevit.model.dense import DenseModel
from densevit.model.test_time_augmentation import inference_by_head

__all__ = [
    "DenseModel",
    "build_from_sections",
    "build_model",
    "create_backbone",
    "create_head",
    "create_neck",
    "inference_by_head",
    "kinds_of",
    "tasks_of",
]
