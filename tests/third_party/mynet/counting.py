"""A head of one's own, for a task of one's own."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

import densevit
from densevit.interfaces import Losses, Outputs, Predictions, Targets


class Counter(densevit.Head):
    """How many objects there are, from the mean of the coarsest feature."""

    task = "counting"
    needs = ("boxes",)

    def __init__(
        self, channels: Sequence[int], strides: Sequence[int], classes: Sequence[densevit.Class], width: int = 32
    ) -> None:
        super().__init__(channels, strides, classes)
        self.regression = nn.Sequential(nn.Linear(channels[-1], width), nn.ReLU(), nn.Linear(width, 1))

    def forward(self, features: list[Tensor], padding_mask: Tensor, targets: list[Targets] | None = None) -> Outputs:
        return {"count": self.regression(features[-1].mean((2, 3)))[:, 0]}  # (B,)

    def loss(self, outputs: Outputs, targets: list[Targets]) -> Losses:
        count = outputs["count"]
        labelled = torch.tensor(["boxes" in target for target in targets], device=count.device)
        truth = count.new_tensor([float(len(target.get("boxes", ()))) for target in targets])
        errors = (count - truth).abs() * labelled
        return {"count": errors.sum() / labelled.sum().clamp(min=1)}

    def predict(self, outputs: Outputs, targets: list[Targets]) -> list[Predictions]:
        return [{"count": count} for count in outputs["count"]]
