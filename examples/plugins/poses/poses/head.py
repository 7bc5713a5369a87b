"""A keypoint head: objects as points."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import sigmoid_focal_loss

import densevit
from densevit.interfaces import LossContext, Losses, Outputs, Predictions, Targets
from densevit.layers.positions import mask_on_grid
from densevit.layers.precision import autocast_off
from poses.types import FIGURE

K = len(FIGURE.names)


class PoseGrid(densevit.Head):
    """Objects as points (CenterNet, Zhou et al. 2019): the cell at the centre of a figure predicts all of it.

    The cells belong to the first feature of stride 8 or more.
    """

    task = "keypoints"
    required_targets = ("boxes", "labels", "keypoints", "tilt")

    def __init__(
        self,
        channels: Sequence[int],
        strides: Sequence[int],
        classes: Sequence[densevit.Class],
        width: int = 64,
        num_predictions: int = 10,
    ) -> None:
        super().__init__(channels, strides, classes)
        self.target_types = {"keypoints": FIGURE}
        self.level = next((i for i, stride in enumerate(strides) if stride >= 8), len(strides) - 1)
        self.stride, self.num_predictions = strides[self.level], num_predictions
        self.convolution = nn.Conv2d(channels[self.level], width, 3, padding=1)
        self.label_layer = nn.Conv2d(width, len(self.classes), 1)
        self.value_layer = nn.Conv2d(width, 4 + 3 * K + 2, 1)  # sides, keypoints with visibility, direction
        nn.init.constant_(self.label_layer.bias, -2.2)

    def forward(self, features: list[Tensor], padding_mask: Tensor, targets: list[Targets] | None = None) -> Outputs:
        """`logits` (B, C, h, w) by class, `values` (B, 4 + 3K + 2, h, w); `padding` (B, h, w)."""
        x = features[self.level]
        padding = mask_on_grid(padding_mask, x.shape[-2:])
        x = F.relu(self.convolution(x.masked_fill(padding[:, None], 0.0)))
        return {"logits": self.label_layer(x), "values": self.value_layer(x), "padding": padding}

    def loss(self, outputs: Outputs, targets: list[Targets], context: LossContext) -> Losses:
        logits, values = outputs["logits"], outputs["values"]
        with autocast_off(logits.device):
            logits, values = logits.float(), values.float()
            labelled = [i for i, target in enumerate(targets) if all(key in target for key in self.required_targets)]
            boxes, labels, keypoints, tilts = (
                torch.cat([targets[i][key].to(logits.device) for i in labelled] or [logits.new_zeros(shape)])
                for key, shape in zip(self.required_targets, ((0, 4), (0,), (0, K, 3), (0,)), strict=True)
            )
            image = torch.tensor([i for i in labelled for _ in targets[i]["labels"]], device=logits.device).long()
            h, w = logits.shape[-2:]
            centres = ((boxes[:, :2] + boxes[:, 2:]) / 2 / self.stride).long()  # (N, 2)
            column, row = centres[:, 0].clamp(max=w - 1), centres[:, 1].clamp(max=h - 1)

            at_centre = torch.zeros_like(logits)
            at_centre[image, labels.long(), row, column] = 1
            weights = F.one_hot(torch.tensor(labelled).long(), len(targets)).sum(0).to(logits)[:, None, None, None]
            weights = (
                weights * ~outputs["padding"][:, None] * ~((F.max_pool2d(at_centre, 3, 1, 1) > 0) & (at_centre == 0))
            )
            score = (weights * sigmoid_focal_loss(logits, at_centre)).sum()

            predicted = self._decoded(values[image, :, row, column], column, row)
            unit = 4 * self.stride
            seen = keypoints[..., 2] > 0  # (N, K)
            distance = (predicted["keypoints"][..., :2] - keypoints[..., :2]).abs().sum(-1) / unit
            direction = torch.stack([tilts.sin(), -tilts.cos()], dim=1)
            count = context.mean(logits.new_tensor(float(len(boxes)))).clamp(min=context.min_normalizer())
            return {
                "score": 10 * score / count,
                "box": (predicted["boxes"] - boxes).abs().sum() / unit / count,
                "keypoints": (distance * seen).sum() / count,
                "visibility": F.binary_cross_entropy_with_logits(
                    predicted["keypoints"][..., 2], seen.float(), reduction="sum"
                )
                / (K * count),
                "tilt": (1 - F.cosine_similarity(predicted["direction"], direction)).sum() / count,
            }

    @torch.no_grad()
    def predict(self, outputs: Outputs, targets: list[Targets]) -> list[Predictions]:
        """Cells with the highest score among their neighbours, by decreasing score."""
        scores = outputs["logits"].float().sigmoid().masked_fill(outputs["padding"][:, None], 0.0)
        scores = scores * (scores == F.max_pool2d(scores, 3, 1, 1))
        predictions = []
        for score, values, target in zip(scores, outputs["values"].float(), targets, strict=True):
            best, index = score.flatten().topk(min(self.num_predictions, score.numel()))
            best, index = best[best > 0.05], index[best > 0.05]
            cell = index % score[0].numel()
            row, column = cell // score.shape[2], cell % score.shape[2]
            decoded = self._decoded(values[:, row, column].T, column, row)
            (h, w), (height, width) = target["size"], target["original_size"]
            scale = values.new_tensor([width / w, height / h])
            low, high = values.new_zeros(4), values.new_tensor([width, height, width, height])
            x, y = (decoded["direction"] * scale).unbind(1)
            points, visibility = decoded["keypoints"][..., :2] * scale, decoded["keypoints"][..., 2:].sigmoid()
            predictions.append(
                {
                    "boxes": torch.minimum(torch.maximum(decoded["boxes"] * scale.repeat(2), low), high),
                    "scores": best,
                    "labels": index // score[0].numel(),
                    "keypoints": torch.cat([points, visibility], dim=2),
                    "tilt": torch.atan2(x, -y),
                }
            )
        return predictions

    def _decoded(self, values: Tensor, column: Tensor, row: Tensor) -> dict[str, Tensor]:
        """Values (N, 4 + 3K + 2) of cells as boxes (N, 4), keypoints (N, K, 3) with logits, and directions (N, 2).

        In pixels of the resized image.
        """
        centres = self.stride * (torch.stack([column, row], dim=1) + 0.5)  # (N, 2)
        sides, points, direction = values.split([4, 3 * K, 2], dim=1)
        sides, points = 4 * self.stride * F.softplus(sides), points.unflatten(1, (K, 3))
        xy = centres[:, None] + 4 * self.stride * points[..., :2]
        return {
            "boxes": torch.cat([centres - sides[:, :2], centres + sides[:, 2:]], dim=1),
            "keypoints": torch.cat([xy, points[..., 2:]], dim=2),
            "direction": direction,
        }
