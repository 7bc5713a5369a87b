"""Results with regions at places that are worked out by hand, and a model that predicts them."""

import numpy as np
import torch

import densevit
from densevit import Result
from densevit.interfaces import Class
from densevit.model import DenseModel
from tests.small_models import Pixels, StandIn

CAT, DOG = Class("cat", 3, (200, 0, 0)), Class("dog", 7, (0, 200, 0))
SIZE = (40, 80)  # h, w
MASKS = torch.zeros(2, *SIZE, dtype=torch.bool)
MASKS[0, 10:30, 8:24] = True
MASKS[1, 0:4, 60:80] = MASKS[1, 36:40, 0:4] = True  # two parts
OBJECTS = {
    "boxes": torch.tensor([[8.0, 10, 24, 30], [0, 0, 80, 40]]),
    "scores": torch.tensor([0.75, 0.25]),
    "labels": torch.tensor([1, 0]),
}


def result(**predictions: torch.Tensor) -> Result:
    """The result of a head `x`."""
    return Result(np.zeros((*SIZE, 3), np.uint8), SIZE, {"x": predictions}, {"x": (CAT, DOG)})


def predictor(*keys: str) -> DenseModel:
    """A model that predicts the boxes of `OBJECTS`, and other keys, on every image."""
    outputs = OBJECTS | {key: {"masks": MASKS}[key] for key in keys}
    head = StandIn((CAT, DOG), lambda target: outputs)
    return densevit.DenseModel(Pixels(), {"x": head}).eval()
