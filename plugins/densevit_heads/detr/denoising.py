"""Denoising queries (DN-DETR, Li et al. 2022): in training, spoilt objects that the decoder learns to repair."""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from densevit.losses.boxes import to_centres, to_corners
from densevit.losses.distributed import to_device
from densevit.losses.matching import Objects


class Spoilt(NamedTuple):
    """queries: (B, D, C). boxes: (B, D, 4). mask: (D + Q, D + Q), -inf where a query must not see another.

    image, query, target: (P,), which of the D queries of which image has to become which object; the others fill up.
    """

    queries: Tensor
    boxes: Tensor
    mask: Tensor
    image: Tensor
    query: Tensor
    target: Tensor


class Denoising(nn.Module):
    """Makes `groups` spoilt copies of each object: a label flipped now and then, a box moved and stretched.

    label_noise: the chance that a label is drawn anew. box_noise: a corner moves by up to this part of half the box.
    """

    def __init__(
        self, width: int, num_classes: int, groups: int, label_noise: float = 0.25, box_noise: float = 0.4
    ) -> None:
        super().__init__()
        self.num_classes, self.groups = num_classes, groups
        self.label_noise, self.box_noise = label_noise, box_noise
        self.label_embedding = nn.Embedding(num_classes, width)

    def forward(self, objects: Objects, num_queries: int) -> Spoilt:
        """The spoilt queries for a batch, to stand before its Q ordinary ones."""
        device = objects.boxes.device
        B, N, T = len(objects.counts), max(objects.counts), len(objects.labels)
        D = N * self.groups
        counts = torch.tensor(objects.counts)
        first = torch.repeat_interleave(counts.cumsum(0) - counts, counts)
        rank = torch.arange(T, device=device) - to_device(first, device)  # an object's place in its image
        query = (torch.arange(self.groups, device=device)[:, None] * N + rank).flatten()  # (groups * T,)
        image, target = objects.image.repeat(self.groups), torch.arange(T, device=device).repeat(self.groups)

        labels = objects.labels.repeat(self.groups)
        drawn = torch.randint_like(labels, self.num_classes)
        labels = torch.where(torch.rand(labels.shape, device=device) < self.label_noise, drawn, labels)
        boxes = objects.boxes.repeat(self.groups, 1)
        corners = to_corners(boxes) + (torch.rand_like(boxes) * 2 - 1) * self.box_noise * boxes[:, 2:].repeat(1, 2) / 2
        low, high = corners.split(2, dim=-1)
        boxes = to_centres(torch.cat([torch.minimum(low, high), torch.maximum(low, high)], dim=-1).clamp(0, 1))

        embedded = self.label_embedding(labels)
        queries = embedded.new_zeros(B, D, embedded.shape[-1]).index_put((image, query), embedded)
        all_boxes = boxes.new_full((B, D, 4), 0.5).index_put((image, query), boxes)
        return Spoilt(queries, all_boxes, self._mask(N, D + num_queries, device), image, query, target)

    def _mask(self, N: int, total: int, device: torch.device) -> Tensor:
        """A copy sees its own group and the ordinary queries; these see no copy, or they would be told the answers."""
        place = torch.arange(total, device=device)
        group = torch.where(place < N * self.groups, place // max(N, 1), self.groups)
        visible = (group[:, None] == group[None]) | (group[None] == self.groups)
        return torch.zeros(total, total, device=device).masked_fill(~visible, float("-inf"))
