"""Class weights of the cross-entropy loss."""

from typing import Literal

import torch
from torch import Tensor, nn

from densevit.losses.context import LossContext
from densevit.losses.segmentation import IGNORE

Weighting = tuple[float, ...] | Literal["balanced"] | None


class ClassWeights(nn.Module):
    """Uniform (None), fixed or "balanced" class weights.

    Balanced weights are sqrt(m / f) for a class of frequency f, with the median frequency m: median frequency balancing
    (Eigen and Fergus 2015, section 4.3) with a square root, which moderates the weights of rare classes. The labelled
    training pixels of all processes so far are counted in the buffer `pixels`, which is part of the state dict. Unseen
    classes have weight 1.

    Raises ValueError if K is not in 1 ... 255 or the number of fixed weights is not K.
    """

    fixed: Tensor | None
    pixels: Tensor

    def __init__(self, K: int, weights: Weighting) -> None:
        super().__init__()
        _check(K, weights)
        self.balanced = weights == "balanced"
        fixed = torch.tensor(weights) if weights is not None and weights != "balanced" else None
        self.register_buffer("fixed", fixed, persistent=False)
        if self.balanced:
            self.register_buffer("pixels", torch.zeros(K, dtype=torch.int64))

    def forward(self, labels: Tensor, context: LossContext) -> Tensor | None:
        """Returns weights (K,) or None (uniform). labels: (B, H, W) int64, counted in training mode if balanced."""
        if not self.balanced:
            return self.fixed
        if self.training:
            self._count(labels, context)
        frequency = self.pixels.float()
        seen = frequency > 0
        median = frequency.masked_fill(~seen, torch.nan).nanmedian()
        return (median / frequency).sqrt().where(seen, 1.0)

    @torch.no_grad()
    def _count(self, labels: Tensor, context: LossContext) -> None:
        counts = labels.new_zeros(IGNORE + 1)
        counts = counts.scatter_add(0, labels.flatten(), torch.ones_like(labels).flatten())
        self.pixels += context.sum(counts[: len(self.pixels)])


def _check(K: int, weights: Weighting) -> None:
    if not K:
        raise ValueError("The segmentation data has no classes; at least one is needed.")
    if weights is None or isinstance(weights, str):
        return
    if len(weights) != K:
        raise ValueError(
            f"class_weights has {len(weights)} numbers; expected one for each of the {K} classes, in their order."
        )
    if not all(0 <= weight < float("inf") for weight in weights) or not any(weights):
        raise ValueError(f"class_weights is {list(weights)}; expected finite numbers of at least 0, not all 0.")
