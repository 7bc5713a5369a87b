"""Small models for exports: each layer and each resizing takes time to trace, each pixel to compare."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

import densevit
from densevit.data.transforms.detr import Detr
from densevit.data.transforms.fixed import Fixed
from densevit.data.transforms.resizing import EvaluationTransform
from densevit.inference.predictor import Predictor
from densevit.interfaces import Head

NAMES = ["cat", "dog & bone"]
CELLS = {"name": "one_stage", "width": 16, "fusion_blocks": 0}
NAIVE = {"name": "setr", "decoder": "naive", "width": 16, "auxiliary": (), "norm": "batch"}


class FourMaps(densevit.Backbone):
    """Four convolutions, the first with a batch norm, whose outputs are the features."""

    channels, strides = (8, 8, 16, 16), (4, 8, 16, 32)

    def __init__(self) -> None:
        super().__init__()
        widths = (3, *self.channels)
        kernels = (4, 2, 2, 2)
        self.norm = nn.BatchNorm2d(8)
        self.layers = nn.ModuleList(nn.Conv2d(widths[i], widths[i + 1], kernels[i], kernels[i]) for i in range(4))

    def forward(self, images: Tensor) -> list[Tensor]:
        features = [self.norm(self.layers[0](images)).relu()]
        for layer in self.layers[1:]:
            features.append(layer(features[-1]))
        return features


class Cells(Head):
    """A third party's head of boxes without `exported`."""

    task, needs = "detection", ("boxes", "labels")

    def forward(self, features, padding_mask, targets=None):
        return {"logits": features[0]}

    def predict(self, outputs, targets):
        return []


FOUR_MAPS = {"name": f"{__name__}:FourMaps"}


def evaluated_at(predictor: Predictor, side: int) -> Predictor:
    """The predictor of images whose longer side is resized to `side`, on which `export` compares."""
    return predictor.with_resize(EvaluationTransform(Fixed(side)))


def small_predictor(head: dict[str, Any], classes: Sequence[str] | None = ("a", "b"), side: int = 96) -> Predictor:
    """A head on `FourMaps`."""
    torch.manual_seed(0)
    predictor = densevit.create_model(FOUR_MAPS, {"x": head}, None if classes is None else [*classes])
    return evaluated_at(predictor, side)


def program_predictor() -> Predictor:
    """The predictor of the fixture `program`. Detects `NAMES`."""
    return small_predictor(CELLS, NAMES).with_resize(EvaluationTransform(Detr((64, 110))))
