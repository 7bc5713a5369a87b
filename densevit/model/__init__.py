"""The model: normalisation, a backbone, a head with its neck per task; windows and test-time augmentation."""

from densevit.layers.fast.replacement import replace_layers
from densevit.model.batch_checks import check_batch
from densevit.model.dense import DenseModel
from densevit.model.head_inference import inference_by_head, used_options
from densevit.model.inference_model import InferenceModel, Threshold
from densevit.model.model_factory import (
    backbone_from,
    build_backbone,
    build_from_sections,
    classes_by_head,
    create_head,
    create_neck,
    kinds_of,
    tasks_of,
)
from densevit.model.nan_check import NanCheck, nan_checked
from densevit.model.wrappers import unwrapped

__all__ = [
    "DenseModel",
    "InferenceModel",
    "NanCheck",
    "Threshold",
    "backbone_from",
    "build_backbone",
    "build_from_sections",
    "check_batch",
    "classes_by_head",
    "create_head",
    "create_neck",
    "inference_by_head",
    "kinds_of",
    "nan_checked",
    "replace_layers",
    "tasks_of",
    "unwrapped",
    "used_options",
]
