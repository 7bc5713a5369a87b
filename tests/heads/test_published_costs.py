"""Multiply-adds of heads on their backbones beside those that papers and authors' READMEs print.

Parameters are those of the releases whose names and shapes tests/checkpoints/released lists.
"""

from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import densevit
from densevit.interfaces import Class
from densevit.model import build_backbone

pytestmark = pytest.mark.integration

FROZEN = {"norm": "frozen", "frozen_stages": 2}  # the stem and the first stage


# The model, the size of the image, 10^9 multiply-adds and their relative tolerance; READMEs' FLOPs are twice as many.
MULTIPLY_ADDS: dict[str, tuple[tuple[str, dict[str, Any], str, int, dict[str, Any]], tuple[int, int], float, float]] = {
    # 800 x 1131 is the paper's mean size, of the first 100 images of COCO's validation set.
    "DETR": (("resnet", {"depth": 50, **FROZEN}, "detr", 91, {}), (800, 1131), 86, 0.015),
    "DETR-DC5": (("resnet", {"depth": 50, "dilation": True, **FROZEN}, "detr", 91, {}), (800, 1131), 187, 0.015),
    "Deformable DETR": (("resnet", {"depth": 50, **FROZEN}, "deformable_detr", 91, {}), (800, 1131), 173, 0.005),
    "RT-DETR-R50": (("resnet", {"depth": 50, "variant": "vd"}, "rtdetr", 80, {}), (640, 640), 136 / 2, 0.012),
    "UPerNet": (("swin", {"variant": "tiny"}, "upernet", 150, {}), (512, 2048), 945, 0.02),
}


def built(backbone: str, body: dict[str, Any], head: str, classes: int, options: dict[str, Any]) -> list[nn.Module]:
    """Backbone and head on the meta device: shapes without numbers."""
    names = [Class(str(i), i, (0, 0, 0)) for i in range(classes)]
    with torch.device("meta"):
        own = build_backbone(backbone, **body)
        return [own.eval(), densevit.create_head(head, own.channels, own.strides, names, **options).eval()]


def multiply_adds(backbone: nn.Module, head: nn.Module, size: tuple[int, int]) -> float:
    """10^9 of convolutions and matrix products, including those of attention."""
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        head(backbone(torch.empty(1, 3, *size)), torch.zeros(1, *size, dtype=torch.bool))
    return float(counter.get_total_flops()) / 2e9


@pytest.mark.parametrize("name", MULTIPLY_ADDS)
def test_multiply_adds_are_as_many_as_published(name: str) -> None:
    model, size, billions, tolerance = MULTIPLY_ADDS[name]
    backbone, head = built(*model)
    assert multiply_adds(backbone, head, size) == pytest.approx(billions, rel=tolerance)


def test_segformer_s_multiply_adds_are_the_paper_s_but_for_a_saving() -> None:
    """The linear layer on the concatenation at stride 4 is applied before upsampling here: its saving is added."""
    backbone, head = built("mit", {"variant": "b0"}, "segformer", 150, {"width": 256})
    cells = [(512 // stride) ** 2 for stride in (4, 8, 16, 32)]
    saved = (4 * cells[0] - sum(cells)) * 256**2 / 1e9
    assert multiply_adds(backbone, head, (512, 512)) + saved == pytest.approx(8.4, rel=0.02)
