"""Parameters and multiply-adds of heads on their backbones beside those that papers and authors' READMEs print."""

import functools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import densevit
from densevit.interfaces import Class
from densevit.model import build_backbone
from densevit.set_prediction.transformer import Transformer
from densevit_heads.rtdetr.hybrid_encoder import HybridEncoderOptions

pytestmark = pytest.mark.integration

FROZEN = {"norm": "frozen", "frozen_stages": 2}  # the stem and the first stage
RTDETR_101 = {"encoder": HybridEncoderOptions(384, 2048)}
RTDETR_18 = {
    "encoder": HybridEncoderOptions(expansion=0.5), "transformer": Transformer(256, 8, 1, 3, 1024, 0.0),
}  # fmt: skip
DFINE_N = {
    "encoder": HybridEncoderOptions(128, 512, 0.34), "transformer": Transformer(128, 8, 1, 3, 512, 0.0),
    "fusion_blocks": 2, "num_points": (6, 6), "min_stride": 16,
}  # fmt: skip
TWO_STAGE = {"box_refinement": True, "two_stage": True}
SETR_BLOCKS = {"pup": (10, 15, 20, 24), "mla": (6, 12, 18, 24)}
DPT = {"readout": "project", "feature_norm": False, "position_resizing": "bilinear", "image_size": 384}


def setr(decoder: str) -> tuple[str, dict[str, Any], str, int, dict[str, Any]]:
    vit = {"variant": "large", "image_size": 768, "features": SETR_BLOCKS[decoder], "feature_norm": False}
    return "vit", vit, "setr", 19, {"decoder": decoder}


# The backbone, the head, the classes, and millions of parameters with their tolerance.
PARAMETERS: dict[str, tuple[tuple[str, dict[str, Any], str, int, dict[str, Any]], float, float]] = {
    # DETR's own code prints 41,302,368 trained parameters; 222,400 are frozen.
    "DETR": (("resnet", {"depth": 50, **FROZEN}, "detr", 91, {}), 41.302_368 + 0.222_400, 5e-7),
    "panoptic DETR": (("resnet", {"depth": 50, **FROZEN}, "detr_panoptic", 250, {}), 42.9, 0.05),
    # Issue 110 of fundamentalvision/Deformable-DETR, for 4 classes; transformers' models have the other numbers.
    "Deformable DETR": (("resnet", {"depth": 50, **FROZEN}, "deformable_detr", 4, {}), 39.824_906 + 0.222_400, 5e-7),
    "single-scale": (("resnet", {"depth": 50, **FROZEN}, "deformable_detr", 91, {"num_levels": 1}), 34.07, 0.005),
    "two-stage": (("resnet", {"depth": 50, **FROZEN}, "deformable_detr", 91, TWO_STAGE), 41.18, 0.005),
    "RT-DETR-R18": (("resnet", {"depth": 18, "variant": "vd"}, "rtdetr", 80, RTDETR_18), 20, 1.0),
    "RT-DETR-R101": (("resnet", {"depth": 101, "variant": "vd"}, "rtdetr", 80, RTDETR_101), 76, 1.0),
    "Mask2Former": (("swin", {"variant": "tiny"}, "mask2former_instance", 80, {}), 47, 0.5),
    "SegFormer-B0": (("mit", {"variant": "b0"}, "segformer", 150, {"width": 256}), 3.8, 0.06),
    "SegFormer-B5": (("mit", {"variant": "b5"}, "segformer", 150, {"width": 768}), 84.7, 0.06),
    "UPerNet": (("swin", {"variant": "base"}, "upernet", 150, {}), 121, 0.5),
    "SETR-PUP": (setr("pup"), 318.31, 1.2),
    "SETR-MLA": (setr("mla"), 310.57, 1.2),
    "DPT-Hybrid": (("vit", {"variant": "base", "stem": "resnet", **DPT}, "dpt", 0, {}), 121.2, 0.05),
    "DPT-Large": (("vit", {"variant": "large", **DPT}, "dpt", 0, {}), 341.8, 0.05),
}
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


@pytest.mark.parametrize("name", PARAMETERS)
def test_parameters_are_as_many_as_published(name: str) -> None:
    model, millions, tolerance = PARAMETERS[name]
    count = sum(p.numel() for module in built(*model) for p in module.parameters())
    assert count / 1e6 == pytest.approx(millions, abs=tolerance)


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


def merge(module: nn.Module) -> None:
    for name, child in module.named_children():
        merged: Callable[[], nn.Module] | None = getattr(child, "merged", None)
        setattr(module, name, merged()) if merged else merge(child)


@pytest.mark.parametrize(
    ("backbone", "options", "millions", "gflops"), [("b0", DFINE_N, 4, 7), ("b4", {}, 31, 91)], ids=["N", "L"]
)
def test_dfine_s_costs_are_those_of_a_deployed_model(
    backbone: str, options: dict[str, Any], millions: int, gflops: float
) -> None:
    """RepVGG blocks and batch norms are merged, and layers of the training removed."""
    make = functools.partial(built, "timm", {"model": f"hgnetv2_{backbone}"}, "dfine", 80)
    own, head = make(options | {"contrastive_denoising": 0})
    merge(head)
    assert 2 * multiply_adds(own, head, (640, 640)) == pytest.approx(gflops, rel=0.006, abs=0.7)
    for part in (head.decoder.label_heads, head.decoder.qualities):
        part[: len(head.decoder.layers) - 1] = [nn.Identity()] * (len(head.decoder.layers) - 1)
    count = sum(p.numel() for module in (own, head) for p in module.parameters())
    biases = sum(norm.num_features for norm in head.modules() if isinstance(norm, nn.BatchNorm2d))
    assert round((count - biases) / 1e6) == millions  # one bias instead of two
