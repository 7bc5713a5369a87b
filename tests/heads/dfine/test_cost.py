"""D-FINE's parameters and multiply-adds beside the authors' table (README of Peterande/D-FINE; 640 x 640).

They count a deployed model: RepVGG blocks and batch norms are merged, and layers of the training are removed.
"""

from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from densevit.interfaces import Class
from densevit.set_prediction.transformer import Transformer
from densevit_heads.dfine import Dfine
from densevit_heads.rtdetr.hybrid_encoder import HybridEncoderOptions

if TYPE_CHECKING:
    from densevit_backbones.timm import Timm

pytestmark = pytest.mark.integration


COCO = [Class(f"class {i}", i, (0, 0, 0)) for i in range(80)]


def transformer(layers: int, width: int = 256, feedforward: int = 1024) -> Transformer:
    return Transformer(width, 8, 1, layers, feedforward, 0.0)


MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "N": ("b0", {
        "encoder": HybridEncoderOptions(128, 512, 0.34), "transformer": transformer(3, 128, 512), "fusion_blocks": 2,
        "num_points": (6, 6), "min_stride": 16,
    }),
    "S": ("b0", {"encoder": HybridEncoderOptions(expansion=0.5), "transformer": transformer(3), "fusion_blocks": 1}),
    "M": ("b2", {"transformer": transformer(4), "fusion_blocks": 2}),
    "L": ("b4", {}),
    "X": ("b5", {"encoder": HybridEncoderOptions(384, 2048), "reg_scale": 8.0}),
}  # fmt: skip


def deployed(size: str) -> "tuple[Timm, Dfine]":
    """Backbone and head on the meta device: shapes without numbers."""
    from densevit_backbones.timm import Timm

    backbone_name, options = MODELS[size]
    with torch.device("meta"):
        backbone = Timm(f"hgnetv2_{backbone_name}")
        head = Dfine(backbone.channels, backbone.strides, COCO, contrastive_denoising=0, **options)
    last = len(head.decoder.layers) - 1
    for part in (head.decoder.label_heads, head.decoder.qualities):
        for i in range(last):
            part[i] = nn.Identity()
    merge(head)
    return backbone.eval(), head.eval()


def merge(module: nn.Module) -> None:
    for name, child in module.named_children():
        if hasattr(child, "merged"):
            setattr(module, name, child.merged())
        else:
            merge(child)


@pytest.mark.parametrize(("size", "millions"), [("N", 4), ("S", 10), ("M", 19), ("L", 31), ("X", 62)])
def test_parameter_counts_match_the_authors(size: str, millions: int):
    backbone, head = deployed(size)
    count = sum(p.numel() for module in (backbone, head) for p in module.parameters())
    norms = [m for module in (head,) for m in module.modules() if isinstance(m, nn.BatchNorm2d)]
    assert round((count - sum(norm.num_features for norm in norms)) / 1e6) == millions  # one bias instead of two


@pytest.mark.parametrize(("size", "gflops"), [("N", 7), ("S", 25), ("M", 57), ("L", 91), ("X", 202)])
def test_multiply_adds_match_the_authors(size: str, gflops: float):
    """The table's "GFLOPs" are multiplications and additions, two for each multiply-add; to 0.7 G or 0.6 %."""
    backbone, _ = deployed(size)
    _, options = MODELS[size]
    with torch.device("meta"):
        head = Dfine(backbone.channels, backbone.strides, COCO, **options).eval()
    merge(head)
    image = torch.empty(1, 3, 640, 640, device="meta")
    with FlopCounterMode(display=False) as counter:
        head(backbone(image), torch.zeros(1, 640, 640, dtype=torch.bool, device="meta"))
    assert counter.get_total_flops() / 1e9 == pytest.approx(gflops, rel=0.006, abs=0.7)
