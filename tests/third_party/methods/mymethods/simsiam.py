"""Training with two views of each image (SimSiam, Chen and He 2021)."""

import torch
from torch import nn
from torch.nn import functional

from densevit.interfaces import Batch, LossContext, Losses, Method


class SimSiam(Method):
    """Predicts the pooled features of one view of an image from those of another, without negatives (SimSiam)."""

    views = 2  # batches have 2 B images: first the first views of all, then the second ones

    def __init__(self, model: nn.Module, width: int = 64) -> None:
        super().__init__(model)
        channels = model.backbone.channels[-1]
        self.projector = nn.Sequential(nn.Linear(channels, channels), nn.LayerNorm(channels))
        self.predictor = nn.Sequential(nn.Linear(channels, width), nn.ReLU(), nn.Linear(width, channels))

    def training_step(self, model: nn.Module, batch: Batch, context: LossContext) -> Losses:
        images = model.normalise(batch["images"], batch["padding_mask"])
        projected = self.projector(model.backbone(images)[-1].mean((2, 3)))  # (2 B, C)
        predicted = self.predictor(projected)
        target = torch.cat(projected.detach().chunk(2)[::-1])  # of the other view
        return {"similarity": -functional.cosine_similarity(predicted.float(), target.float()).mean()}
