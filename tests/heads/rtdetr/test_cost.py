"""RT-DETR's parameters and multiply-adds beside the authors' table (README of lyuwenyu/RT-DETR; 640 x 640)."""

from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from densevit.interfaces import Class
from densevit.set_prediction.transformer import Transformer
from densevit_backbones.resnet import ResNet
from densevit_heads.rtdetr import RtDetr
from densevit_heads.rtdetr.hybrid_encoder import HybridEncoderOptions

pytestmark = pytest.mark.integration

COCO = [Class(f"class {i}", i, (0, 0, 0)) for i in range(80)]
HALF = HybridEncoderOptions(expansion=0.5)


def decoder(layers: int) -> Transformer:
    return Transformer(encoder_layers=1, decoder_layers=layers, feedforward=1024, dropout=0.0)


MODELS: dict[int, dict[str, Any]] = {
    18: {"encoder": HALF, "transformer": decoder(3)},
    34: {"encoder": HALF, "transformer": decoder(4)},
    50: {},
    101: {"encoder": HybridEncoderOptions(384, 2048)},
}


def published(depth: int) -> tuple[ResNet, RtDetr]:
    """Backbone and head on the meta device: shapes without numbers."""
    with torch.device("meta"):
        backbone = ResNet(depth, variant="vd")
        return backbone, RtDetr(backbone.channels, backbone.strides, COCO, **MODELS[depth])


@pytest.mark.parametrize(("depth", "millions"), [(18, 20), (34, 31), (50, 42), (101, 76)])
def test_parameter_counts_match_the_authors(depth: int, millions: int):
    count = sum(p.numel() for module in published(depth) for p in module.parameters())
    assert abs(count / 1e6 - millions) < 1.0, count


@pytest.mark.parametrize(("depth", "gflops"), [(18, 60), (34, 92), (50, 136), (101, 259)])
def test_multiply_adds_match_the_authors(depth: int, gflops: float):
    """The table's "FLOPs" are multiplications and additions, two for each multiply-add."""
    backbone, head = published(depth)
    backbone.eval(), head.eval()
    image = torch.empty(1, 3, 640, 640, device="meta")
    with FlopCounterMode(display=False) as counter:
        head(backbone(image), torch.zeros(1, 640, 640, dtype=torch.bool, device="meta"))
    assert counter.get_total_flops() / 1e9 == pytest.approx(gflops, rel=0.012)
