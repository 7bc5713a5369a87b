"""Intellindust-AI-Lab/GTR: models for semantic segmentation, as trained on Cityscapes.

The authors' code averages the logits of windows of 1024 x 1024 pixels at steps of 768: `inference.window` and
`inference.stride`.
"""

from functools import partial
from typing import Any

from densevit.interfaces import CheckpointLayout, Line, Publishing, StateDict
from densevit.layouts import backbone_lines, find
from densevit_heads.gtr import published_models
from densevit_heads.gtr.checkpoints import BACKBONE, NORM, SIGNATURE_KEYS, describe_backbone
from densevit_heads.parts import projector_checkpoints as projector
from densevit_heads.parts.class_map_checkpoints import classes_of

_HEAD = "heads.segmentation"


def describe(tensors: StateDict) -> dict[str, Any]:
    """The config sections of a model, from tensors with densevit's keys."""
    backbone, neck = describe_backbone(tensors, "segmentation")
    width = len(tensors[f"{_HEAD}.convolution.0.weight"])
    return {"backbone": backbone, "heads": {"segmentation": {"name": "gtr_semantic", "neck": neck, "width": width}}}


_GTR = find("gtr-backbone").publishing
GTR = CheckpointLayout(
    name="gtr-semantic",
    signature_keys=(*SIGNATURE_KEYS, "head.classifier.weight", "head.bn.running_mean"),
    lines=(
        *backbone_lines("gtr-backbone", BACKBONE),
        *projector.authors("encoder", "norm", "segmentation"),
        Line("head.conv.*", f"{_HEAD}.convolution.0.*"),
        Line("head.bn.*", f"{_HEAD}.convolution.1.*"),
        Line("head.classifier.*", f"{_HEAD}.classifier.*"),
    ),
    describe=describe,
    classes=partial(classes_of, bias="head.classifier.bias"),
    special=NORM,
    publishing=Publishing(licences=_GTR.files["gtrsemseg_*.pth"], files=_GTR.files, models=published_models.SEMANTIC),
)
