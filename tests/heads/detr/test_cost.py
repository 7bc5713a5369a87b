"""DETR's parameters and multiply-adds beside the paper's (Carion et al. 2020, tables 1 and 6)."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from densevit.interfaces import Class
from densevit_backbones.resnet import ResNet
from densevit_heads.detr import Detr

pytestmark = pytest.mark.integration

COCO = [Class(f"class {i}", i, (0, 0, 0)) for i in range(91)]  # the paper's 91 logits, and one for "no object"


def paper(depth: int, dilation: bool = False) -> tuple[ResNet, Detr]:
    """Backbone and head on the meta device: shapes without numbers."""
    with torch.device("meta"):
        backbone = ResNet(depth, dilation=dilation, norm="frozen", frozen_stages=2)  # the stem and the first stage
        return backbone, Detr(backbone.channels, backbone.strides, COCO)


def test_detr_r50_parameter_count_matches_the_paper():
    parameters = [parameter for module in paper(50) for parameter in module.parameters()]
    trained = sum(parameter.numel() for parameter in parameters if parameter.requires_grad)
    assert trained == 41_302_368  # printed by DETR's own code: "number of params: 41302368"
    assert sum(parameter.numel() for parameter in parameters) == 41_302_368 + 222_400  # with the frozen stem and stage


@pytest.mark.parametrize(
    ("depth", "dilation", "gmacs"),
    [(50, False, 86), (50, True, 187), (101, False, 152), (101, True, 253)],
    ids=["R50", "R50-DC5", "R101", "R101-DC5"],
)
def test_multiply_adds_match_the_paper(depth: int, dilation: bool, gmacs: float):
    """One image of 800 x 1131; counts convolutions and matrix products, including those of attention.

    The paper averages over the first 100 images of COCO's validation set, whose short side is made 800 and whose
    long side at most 1333: 1131 is what the long side then is on average (905,000 pixels).
    """
    backbone, head = paper(depth, dilation)
    backbone.eval(), head.eval()
    image = torch.empty(1, 3, 800, 1131, device="meta")
    with FlopCounterMode(display=False) as counter:
        head(backbone(image), torch.zeros(1, 800, 1131, dtype=torch.bool, device="meta"))
    assert counter.get_total_flops() / 2e9 == pytest.approx(gmacs, rel=0.015)
