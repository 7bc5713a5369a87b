"""Parameters and multiply-adds beside the papers' tables and a count by hand."""

from typing import Any

import pytest
import torch
from torch import nn

import densevit
from densevit.interfaces import as_classes
from densevit.model.dense import DenseModel
from densevit.model.model_factory import build_backbone
from densevit_workbench.model_cost import model_cost, multiply_adds


# Multiply-adds in G: He et al. 2016, Liu et al. 2021, Dosovitskiy et al. 2021 (timm's count).
@pytest.mark.parametrize(
    ("name", "options", "gmacs"),
    [
        ("resnet", {"depth": 50}, 4.1),
        ("swin", {"variant": "tiny"}, 4.5),
        ("vit", {"variant": "base", "image_size": 224}, 17.58 - 0.01),
    ],
)
def test_cost_matches_the_papers(name: str, options: dict[str, Any], gmacs: float):
    with torch.device("meta"):
        backbone = build_backbone(name, **options)
        head = densevit.create_head("classifier", backbone.channels, backbone.strides, as_classes(1000))
    cost = model_cost(DenseModel(backbone, {"classification": head}), (224, 224))
    assert cost.multiply_adds / 1e9 == pytest.approx(gmacs, rel=0.015)


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_fused_attention_in_evaluation_mode_is_counted(device: str) -> None:
    """torch's own counter misses the fused layer of `nn.TransformerEncoderLayer`."""
    N, C, hidden = 300, 32, 64
    layer = nn.TransformerEncoderLayer(C, 4, hidden, batch_first=True, device=device).eval()
    for parameter in layer.parameters():
        parameter.requires_grad_(False)
    found = multiply_adds(layer, torch.zeros(1, N, C, device=device))
    assert found == 4 * N * C * C + 2 * N * N * C + 2 * N * C * hidden
