"""A head for surface normals."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import densevit
from densevit.interfaces import LossContext, Losses, Outputs, Predictions, Targets
from densevit.layers.precision import autocast_off
from densevit.targets import VectorMap


class Normals(densevit.DenseHead):
    """Unit normals from all features, each projected to the finest and added up."""

    task = "normals"
    required_targets = ("normals",)

    def __init__(
        self, channels: Sequence[int], strides: Sequence[int], classes: Sequence[densevit.Class], width: int = 32
    ) -> None:
        super().__init__(channels, strides, classes)
        self.projections = nn.ModuleList(nn.Conv2d(inputs, width, 1) for inputs in channels)
        self.normal_layer = nn.Conv2d(width, 3, 1)

    def forward(self, features: list[Tensor], padding_mask: Tensor, targets: list[Targets] | None = None) -> Outputs:
        """`normals` (B, 3, H, W), unit vectors on the pixels of the batch."""
        finest = features[0].shape[-2:]
        levels = [project(x) for project, x in zip(self.projections, features, strict=True)]
        x = torch.stack([F.interpolate(x, finest, mode="bilinear") for x in levels]).sum(0)
        x = F.interpolate(self.normal_layer(F.relu(x)).float(), padding_mask.shape[-2:], mode="bilinear")
        return {"normals": F.normalize(x, dim=1)}

    def loss(self, outputs: Outputs, targets: list[Targets], context: LossContext) -> Losses:
        """`cosine`: 1 - cosine, averaged over the labelled pixels of all images."""
        normals = outputs["normals"]
        with autocast_off(normals.device):
            truth = VectorMap().collate([target.get("normals") for target in targets], normals.shape[-2:])
            truth = truth.to(normals)
            labelled = (truth != 0).any(dim=1)  # (B, H, W)
            count = context.mean(labelled.sum().float()).clamp(min=context.min_normalizer())
            return {"cosine": (labelled * (1 - (normals.float() * truth).sum(1))).sum() / count}

    def predict(self, outputs: Outputs, targets: list[Targets]) -> list[Predictions]:
        predictions = []
        for normals, target in zip(outputs["normals"], targets, strict=True):
            h, w = target["size"]
            resized = F.interpolate(normals[None, :, :h, :w].float(), target["original_size"], mode="bilinear")
            predictions.append({key: value[0] for key, value in self.read_maps(resized).items()})
        return predictions

    def maps(self, outputs: Outputs, size: tuple[int, int]) -> Tensor:
        return outputs["normals"][..., : size[0], : size[1]].float()

    def read_maps(self, maps: Tensor) -> Predictions:
        return {"normals": F.normalize(maps, dim=1)}
