"""Denoising queries (DN-DETR, Li et al. 2022; DINO, Zhang et al. 2023): noised ground truth, in training only."""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from densevit.losses.boxes import to_centres, to_corners
from densevit.losses.distributed import to_device
from densevit.losses.matching import Objects
from densevit.set_prediction.limits import check_counts
from densevit.set_prediction.queries import BoxQueries


class DenoisingQueries(NamedTuple):
    """The D denoising queries of each image (DN-DETR, Li et al. 2022, section 4).

    contents: (B, D, C). boxes: (B, D, 4) cxcywh. attention_bias: (B, 1, D + Q, D + Q), or the same for all images,
    (D + Q, D + Q), 0 or -inf (masked).

    image, query: (R,), indices of the image and of the denoising query; queries that are not listed are padding.
    target: (P,), the object that each of the first P of them has to reconstruct. The others are negative: no object.
    """

    contents: Tensor
    boxes: Tensor
    attention_bias: Tensor
    image: Tensor
    query: Tensor
    target: Tensor

    @classmethod
    def none(cls, boxes: Tensor) -> "DenoisingQueries":
        """No denoising queries. boxes: (B, Q, 4), of object queries."""
        index = torch.zeros(0, dtype=torch.long, device=boxes.device)
        return cls(boxes[:, :0], boxes[:, :0], boxes.new_zeros(()), index, index, index)

    def prepended_to(self, queries: BoxQueries) -> BoxQueries:
        """All D + Q queries of the decoder."""
        contents, boxes = torch.cat([self.contents, queries.contents], 1), torch.cat([self.boxes, queries.boxes], 1)
        return BoxQueries(contents, boxes)

    def split(self, logits: Tensor, boxes: Tensor) -> tuple[tuple[Tensor, ...], Tensor, Tensor]:
        """Splits predictions (L, B, D + Q, ...) into denoising queries and object queries.

        Returns ((L, R, K), (L, R, 4) and `target`) for the loss, then (L, B, Q, K) and (L, B, Q, 4).
        """
        index = (slice(None), self.image, self.query)
        D = self.contents.shape[1]
        return (logits[index], boxes[index], self.target), logits[:, :, D:], boxes[:, :, D:]


class NoisedObjects(nn.Module):
    """Queries with a noised label as content and a noised box.

    label_noise: probability that a label is resampled. box_noise: maximum shift of a corner, relative to half the box
    size; a negative query's shift is between once and twice this maximum. negatives: adds negative queries.
    """

    negatives = False

    def __init__(self, width: int, num_classes: int, label_noise: float = 0.25, box_noise: float = 0.4) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.label_noise, self.box_noise = label_noise, box_noise
        self.label_embedding = nn.Embedding(num_classes, width)

    def forward(self, objects: Objects, num_queries: int) -> DenoisingQueries:
        """The D denoising queries of a batch, which go before its Q object queries.

        Each group has a query of each object; with `negatives`, these are followed by a negative query of each object.
        An image with fewer objects than another gets padding queries, to which no query attends, and which have no
        loss. In the authors' code denoising queries attend to them, and they learn "no object", so that the losses
        depend on the other images of the batch; docs/development/convergence.md has the scores of both.
        """
        groups = self.groups_of(objects.counts)
        device = objects.boxes.device
        B, N, T = len(objects.counts), max(objects.counts), len(objects.labels)
        copies = 2 if self.negatives else 1
        size = copies * N  # of a group
        counts = torch.tensor(objects.counts)
        first = torch.repeat_interleave(counts.cumsum(0) - counts, counts)
        rank = torch.arange(T, device=device) - to_device(first, device)  # index of an object within its image
        blocks = torch.arange(groups * copies, device=device).view(groups, copies).T.flatten()  # of N, negatives last
        query = (blocks[:, None] * N + rank).flatten()  # (R,), R = groups * copies * T
        image, target = objects.image.repeat(groups * copies), torch.arange(T, device=device).repeat(groups)

        labels = objects.labels.repeat(groups * copies)
        random_labels = torch.randint_like(labels, self.num_classes)
        labels = torch.where(torch.rand(labels.shape, device=device) < self.label_noise, random_labels, labels)
        boxes = self._shifted(objects.boxes.repeat(groups * copies, 1), groups * T)

        embedded = self.label_embedding(labels)
        contents = embedded.new_zeros(B, size * groups, embedded.shape[-1]).index_put((image, query), embedded)
        all_boxes = boxes.new_full((B, size * groups, 4), 0.5).index_put((image, query), boxes)
        attention_bias = group_attention_bias(size, groups, num_queries, device)
        if min(objects.counts) < N:
            is_padding = torch.ones(B, size * groups, dtype=torch.bool, device=device)
            is_padding = F.pad(is_padding.index_put((image, query), is_padding.new_zeros(())), (0, num_queries))
            attention_bias = attention_bias.masked_fill(is_padding[:, None, None], float("-inf"))
        return DenoisingQueries(contents, all_boxes, attention_bias, image, query, target)

    def groups_of(self, counts: list[int]) -> int:
        """The number of groups for images with these numbers of objects."""
        raise NotImplementedError

    def _shifted(self, boxes: Tensor, positives: int) -> Tensor:
        """boxes: (R, 4) cxcywh with shifted corners, within the image; negative from index `positives` on."""
        shift = torch.rand_like(boxes) * 2 - 1
        shift[positives:] += torch.ones_like(shift[positives:]).copysign(shift[positives:])
        corners = to_corners(boxes) + shift * self.box_noise * boxes[:, 2:].repeat(1, 2) / 2
        low, high = corners.split(2, dim=-1)
        return to_centres(torch.cat([torch.minimum(low, high), torch.maximum(low, high)], dim=-1).clamp(0, 1))


class Denoising(NoisedObjects):
    """`groups` noised copies of each object (DN-DETR, Li et al. 2022, section 4)."""

    def __init__(
        self, width: int, num_classes: int, groups: int, label_noise: float = 0.25, box_noise: float = 0.4
    ) -> None:
        super().__init__(width, num_classes, label_noise, box_noise)
        self.groups = groups

    def groups_of(self, counts: list[int]) -> int:
        return self.groups


class ContrastiveDenoising(NoisedObjects):
    """Groups of a positive and a negative query of each object (DINO, Zhang et al. 2023, section 3.3).

    The negative query has the larger box noise and learns "no object". There are as many groups as fit into
    `num_positives` positive queries of the image with the most objects, and at least one.
    """

    negatives = True

    def __init__(
        self, width: int, num_classes: int, num_positives: int, label_noise: float = 0.25, box_noise: float = 0.4
    ) -> None:
        super().__init__(width, num_classes, label_noise, box_noise)
        self.num_positives = num_positives

    def groups_of(self, counts: list[int]) -> int:
        return max(self.num_positives // max(1, *counts, 1), 1)


def build_denoising(
    width: int, num_classes: int, denoising: int, contrastive_denoising: int
) -> Denoising | ContrastiveDenoising | None:
    """Builds a head's denoising from its options: the groups of `Denoising`, or positive queries of
    `ContrastiveDenoising`.

    Raises ValueError if both are set, or negative.
    """
    check_counts({"denoising": denoising, "contrastive_denoising": contrastive_denoising}, 0)
    if denoising and contrastive_denoising:
        raise ValueError("contrastive_denoising replaces denoising. Fix: set denoising to 0.")
    if denoising:
        return Denoising(width, num_classes, denoising)
    return ContrastiveDenoising(width, num_classes, contrastive_denoising) if contrastive_denoising else None


def group_attention_bias(size: int, groups: int, num_queries: int, device: torch.device) -> Tensor:
    """Bias of the self-attention of `groups` groups of denoising queries, then the object queries, 0 or -inf (masked).

    Denoising queries attend to their own group and to object queries; object queries never to denoising ones.
    Returns (D + Q, D + Q), D = size * groups.
    """
    index = torch.arange(size * groups + num_queries, device=device)
    group = torch.where(index < size * groups, index // max(size, 1), groups)
    visible = (group[:, None] == group[None]) | (group[None] == groups)
    return torch.zeros(visible.shape, device=device).masked_fill(~visible, float("-inf"))
