"""Denoising queries (DN-DETR, Li et al. 2022): noised ground truth, reconstructed by the decoder in training."""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from densevit.losses.boxes import to_centres, to_corners
from densevit.losses.distributed import to_device
from densevit.losses.matching import Objects
from densevit_heads.set_prediction.queries import BoxQueries


class DenoisingQueries(NamedTuple):
    """contents: (B, D, C). boxes: (B, D, 4). attention_bias: (D + Q, D + Q), 0 or -inf (masked).

    image, query, target: (P,), indices of the image, of the denoising query and of the object that the query has to
    reconstruct. Queries that are not listed are padding.
    """

    contents: Tensor
    boxes: Tensor
    attention_bias: Tensor
    image: Tensor
    query: Tensor
    target: Tensor

    def prepended_to(self, queries: BoxQueries) -> BoxQueries:
        """All D + Q queries of the decoder."""
        contents, boxes = torch.cat([self.contents, queries.contents], 1), torch.cat([self.boxes, queries.boxes], 1)
        return BoxQueries(contents, boxes)

    def split(self, logits: Tensor, boxes: Tensor) -> tuple[tuple[Tensor, ...], Tensor, Tensor]:
        """Separates predictions (L, B, D + Q, ...) into those of denoising queries and those of object queries.

        Returns ((L, P, K), (L, P, 4) and `target`) for the loss, then (L, B, Q, K) and (L, B, Q, 4).
        """
        index = (slice(None), self.image, self.query)
        D = self.contents.shape[1]
        return (logits[index], boxes[index], self.target), logits[:, :, D:], boxes[:, :, D:]


class Denoising(nn.Module):
    """Creates `groups` noised copies of each object: random label flips, jittered box corners.

    label_noise: probability that a label is resampled. box_noise: maximum shift of a corner, relative to half the box
    size.
    """

    def __init__(
        self, width: int, num_classes: int, groups: int, label_noise: float = 0.25, box_noise: float = 0.4
    ) -> None:
        super().__init__()
        self.num_classes, self.groups = num_classes, groups
        self.label_noise, self.box_noise = label_noise, box_noise
        self.label_embedding = nn.Embedding(num_classes, width)

    def forward(self, objects: Objects, num_queries: int) -> DenoisingQueries:
        """Returns the D denoising queries of a batch, which go before its Q object queries."""
        device = objects.boxes.device
        B, N, T = len(objects.counts), max(objects.counts), len(objects.labels)
        D = N * self.groups
        counts = torch.tensor(objects.counts)
        first = torch.repeat_interleave(counts.cumsum(0) - counts, counts)
        rank = torch.arange(T, device=device) - to_device(first, device)  # index of an object within its image
        query = (torch.arange(self.groups, device=device)[:, None] * N + rank).flatten()  # (groups * T,)
        image, target = objects.image.repeat(self.groups), torch.arange(T, device=device).repeat(self.groups)

        labels = objects.labels.repeat(self.groups)
        random_labels = torch.randint_like(labels, self.num_classes)
        labels = torch.where(torch.rand(labels.shape, device=device) < self.label_noise, random_labels, labels)
        boxes = objects.boxes.repeat(self.groups, 1)
        corners = to_corners(boxes) + (torch.rand_like(boxes) * 2 - 1) * self.box_noise * boxes[:, 2:].repeat(1, 2) / 2
        low, high = corners.split(2, dim=-1)
        boxes = to_centres(torch.cat([torch.minimum(low, high), torch.maximum(low, high)], dim=-1).clamp(0, 1))

        embedded = self.label_embedding(labels)
        contents = embedded.new_zeros(B, D, embedded.shape[-1]).index_put((image, query), embedded)
        all_boxes = boxes.new_full((B, D, 4), 0.5).index_put((image, query), boxes)
        attention_bias = self._attention_bias(N, D + num_queries, device)
        return DenoisingQueries(contents, all_boxes, attention_bias, image, query, target)

    def _attention_bias(self, N: int, total: int, device: torch.device) -> Tensor:
        """Denoising queries attend to their own group and to object queries; object queries never to denoising ones."""
        index = torch.arange(total, device=device)
        group = torch.where(index < N * self.groups, index // max(N, 1), self.groups)
        visible = (group[:, None] == group[None]) | (group[None] == self.groups)
        return torch.zeros(total, total, device=device).masked_fill(~visible, float("-inf"))
