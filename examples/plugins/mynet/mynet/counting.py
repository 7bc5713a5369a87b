"""A head for a custom task."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

import densevit
from densevit.interfaces import LossContext, Losses, Outputs, Predictions, Targets
from densevit.layers.positions import mask_on_grid


class Counter(densevit.Head):
    """How many objects there are, from the mean of the coarsest feature."""

    task = "counting"
    required_targets = ("boxes",)

    def __init__(
        self, channels: Sequence[int], strides: Sequence[int], classes: Sequence[densevit.Class], width: int = 32
    ) -> None:
        super().__init__(channels, strides, classes)
        self.regression = nn.Sequential(nn.Linear(channels[-1], width), nn.ReLU(), nn.Linear(width, 1))

    def forward(self, features: list[Tensor], padding_mask: Tensor, targets: list[Targets] | None = None) -> Outputs:
        inside = ~mask_on_grid(padding_mask, features[-1].shape[-2:])[:, None]
        mean = (features[-1] * inside).sum((2, 3)) / inside.sum((2, 3))  # (B, C)
        return {"count": self.regression(mean)[:, 0]}  # (B,)

    def loss(self, outputs: Outputs, targets: list[Targets], context: LossContext) -> Losses:
        count = outputs["count"]
        labelled = torch.tensor(["boxes" in target for target in targets], device=count.device)
        truth = count.new_tensor([float(len(target.get("boxes", ()))) for target in targets])
        errors = (count - truth).abs() * labelled
        return {"count": errors.sum() / labelled.sum().clamp(min=1)}

    def predict(self, outputs: Outputs, targets: list[Targets]) -> list[Predictions]:
        return [{"count": count} for count in outputs["count"]]
