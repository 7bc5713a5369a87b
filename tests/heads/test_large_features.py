"""Heads on features of magnitude 100 in half precision: finite, and close to float32."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

import densevit
from densevit.interfaces import Class
from tests.heads.test_unlabelled import DETR, FAST, OPTIONS

pytestmark = pytest.mark.integration
DEFORMABLE = {
    "num_queries": 6,
    "transformer": {
        "width": 32,
        "num_heads": 2,
        "encoder_layers": 1,
        "decoder_layers": 2,
        "feedforward": 32,
        "dropout": 0.0,
    },
}
ENCODER = {"encoder": {"width": 32, "feedforward": 32, "expansion": 0.5}}
DETECTORS: dict[str, dict[str, Any]] = {
    "detr": DETR,
    "dab_detr": {**FAST, "extensions": replace(FAST["extensions"], two_stage=False)},
    "ddq": {**DETR, "fusion_blocks": 1},
    "deformable_detr": DEFORMABLE,
    "dino": DEFORMABLE,
    "rtdetr": {**DEFORMABLE, **ENCODER},
    "dfine": {**DEFORMABLE, **ENCODER, "fusion_blocks": 1},
    "one_stage": {"width": 32},
}
CASES = {name: options[0] for name, options in OPTIONS.items() if not name.startswith("eomt")} | DETECTORS
NOT_RUN = {"eomt", "eomt_semantic", "eomt_instance", "faster_rcnn", "fcos", "mask2former_instance"}
"""Heads on the backbone's blocks, torchvision's, and one with the network of another."""


def test_every_head_is_a_case() -> None:
    assert CASES.keys() | NOT_RUN == set(densevit.list_heads())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", CASES)
def test_outputs_on_large_features_are_finite_and_close(name: str, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    classes = [Class(str(i), i, (i, i, i), i < 2) for i in range(4)] if name != "dpt" else ()
    channels, strides = (16, 32, 64, 64), (4, 8, 16, 32)
    head = densevit.create_head(name, channels, strides, classes, **CASES[name]).eval()
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    side = 128
    features = [100 * torch.randn(2, c, side // s, side // s).abs() for c, s in zip(channels, strides, strict=True)]
    padding = torch.zeros(2, side, side, dtype=torch.bool)
    with torch.no_grad():
        expected = head(features, padding)
        with torch.autocast("cpu", dtype):
            found = head(features, padding)
    for key, value in expected.items():
        for own, other in zip(tensors(found[key]), tensors(value), strict=True):
            assert own.isfinite().all() == other.isfinite().all(), key
    if name not in DETECTORS and "logits" in expected and expected["logits"].dim() == 4:
        difference = (found["logits"].float() - expected["logits"]).norm() / expected["logits"].norm()
        assert difference < 0.1


def tensors(values: Any) -> list[Tensor]:
    return [x for x in tree_leaves(values) if isinstance(x, Tensor) and x.is_floating_point()]
