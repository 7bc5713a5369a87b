"""Heads on features of magnitude 100 in half precision: finite, and close to float32."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

import densevit
from densevit.interfaces import Class
from tests.heads.cases import CASES

pytestmark = pytest.mark.integration
CHANNELS, STRIDES, SIDE = (16, 32, 64, 64), (4, 8, 16, 32), 64
NAMES = (
    "ddq", "dino", "dfine", "one_stage", "detr_panoptic", "mask2former", "kmax_deeplab", "perceiver_io", "segformer",
    "segmenter", "upernet", "setr, mla", "dpt, bins",
)  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_outputs_on_large_features_are_finite_and_close(name: str) -> None:
    case = CASES[name]
    classes = [Class(str(i), i, (i, i, i), i < 2) for i in range(4)] if case.head != "dpt" else ()
    head = densevit.create_head(case.head, CHANNELS, STRIDES, classes, **case.options).eval()
    features = [100 * torch.randn(2, c, SIDE // s, SIDE // s).abs() for c, s in zip(CHANNELS, STRIDES, strict=True)]
    padding = torch.zeros(2, SIDE, SIDE, dtype=torch.bool)
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
        expected = head(features, padding)
        for dtype in (torch.float16, torch.bfloat16):
            with torch.autocast("cpu", dtype):
                found = head(features, padding)
            assert "boxes" not in found or found["boxes"].dtype == torch.float32
            for key, value in expected.items():
                for own, other in zip(tensors(found[key]), tensors(value), strict=True):
                    assert own.isfinite().all() == other.isfinite().all(), key
            if head.task == "segmentation" and "logits" in expected and expected["logits"].dim() == 4:
                difference = (found["logits"].float() - expected["logits"]).norm() / expected["logits"].norm()
                assert difference < 0.1


def tensors(values: Any) -> list[Tensor]:
    return [x for x in tree_leaves(values) if isinstance(x, Tensor) and x.is_floating_point()]
