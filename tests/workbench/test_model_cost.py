"""Parameters and multiply-adds beside the papers' tables and counts by hand."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from densevit.errors import DensevitError
from densevit.interfaces import Backbone, Class, Head
from densevit.layers.deformable_attention import MultiScaleDeformableAttention
from densevit.layers.fast.replacement import replace_layers
from densevit.model.dense import DenseModel
from densevit.model.model_factory import build_backbone
from densevit_workbench.model_cost import model_cost, multiply_adds

COCO = [Class(f"class {i}", i, (0, 0, 0)) for i in range(91)]


class Classifier(Head):
    """The papers' classifier: a linear layer on the mean of the last map."""

    task, needs = "classification", ()

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


def test_deformable_attention_counts_its_projections_and_its_sampling() -> None:
    """Zhu et al. 2021, appendix A.1, with one level: projections, and 4 cells for each of K points of every query."""
    S, Q, C, N, K = 30, 7, 16, 4, 2
    with torch.device("meta"):
        attention = MultiScaleDeformableAttention(C, levels=1, heads=N, points=K)
        replace_layers(attention)
        inputs = torch.empty(1, Q, C), torch.empty(1, Q, 1, 2), torch.empty(1, S, C), [(5, 6)]
    projections = S * C * C + Q * C * (3 * N * K) + Q * C * C
    assert multiply_adds(attention, *inputs) == projections + Q * N * K * 4 * (C // N)


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_fused_attention_in_evaluation_mode_is_counted(device: str) -> None:
    """torch's own counter misses the fused layer of `nn.TransformerEncoderLayer`."""
    N, C, hidden = 300, 32, 64
    layer = nn.TransformerEncoderLayer(C, 4, hidden, batch_first=True, device=device).eval()
    for parameter in layer.parameters():
        parameter.requires_grad_(False)
    found = multiply_adds(layer, torch.zeros(1, N, C, device=device))
    assert found == 4 * N * C * C + 2 * N * N * C + 2 * N * C * hidden


class Reading(Backbone):
    """A backbone that reads a value, which has none on the meta device."""

    channels, strides = (4,), (8,)

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(3, 4, 8, 8)

    def forward(self, images: Tensor) -> list[Tensor]:
        assert images.sum().item() != 0.5
        return [self.layer(images)]


def test_a_plugin_that_reads_values_is_counted_on_its_own_device() -> None:
    model = DenseModel(Reading(), {"classification": Classifier((4,), (8,), ())}).train()
    cost = model_cost(model, (16, 24))
    assert cost.multiply_adds == 6 * 192 * 4 + 4000
    assert all(module.training for module in model.modules())
    assert {(p.device.type, p.requires_grad) for p in model.parameters()} == {("cpu", True)}
    with pytest.raises(DensevitError, match="cannot be counted from shapes alone"):
        model_cost(model.to("meta"), (16, 24))
