"""Parameters and multiply-adds beside the papers' tables and a count by hand."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from densevit.interfaces import Head
from densevit.model.dense import DenseModel
from densevit.model.model_factory import build_backbone
from densevit_workbench.model_cost import model_cost, multiply_adds


class Classifier(Head):
    """The papers' classifier: a linear layer on the mean of the last map."""

    task, required_targets = "classification", ()

    def __init__(self, channels: Any, strides: Any, classes: Any) -> None:
        super().__init__(channels, strides, classes)
        self.layer = nn.Linear(channels[-1], 1000)

    def forward(self, features: list[Tensor], padding_mask: Tensor, targets: Any = None) -> dict[str, Tensor]:
        return {"logits": self.layer(features[-1].mean((2, 3)))}


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
        model = DenseModel(backbone, {"classification": Classifier(backbone.channels, backbone.strides, ())})
    cost = model_cost(model, (224, 224))
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
