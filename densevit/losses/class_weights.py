"""What the pixels of each class weigh in a cross-entropy."""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from densevit.losses.distributed import sum_over_processes
from densevit.losses.segmentation import IGNORE

Weighting = tuple[float, ...] | Literal["balanced"] | None


class ClassWeights(nn.Module):
    """All classes alike (None), weights that are given, or "balanced": rare classes weigh more.

    Balanced is sqrt(m / f) for a class of frequency f, m being the median of all frequencies: median frequency
    balancing (Eigen and Fergus 2015, section 4.3) with a root, which overstates rare classes less; of all labelled
    pixels that training has seen until now, in all processes. They are counted in the buffer `pixels`, which a
    checkpoint keeps. A class that was not seen yet weighs 1.

    Raises ValueError where K is not 1 ... 255 and where the weights given are not K.
    """

    given: Tensor | None
    pixels: Tensor

    def __init__(self, K: int, weights: Weighting) -> None:
        super().__init__()
        _check(K, weights)
        self.balanced = weights == "balanced"
        given = torch.tensor(weights) if weights is not None and weights != "balanced" else None
        self.register_buffer("given", given, persistent=False)
        if self.balanced:
            self.register_buffer("pixels", torch.zeros(K, dtype=torch.int64))

    def forward(self, labels: Tensor) -> Tensor | None:
        """The weights (K,) for labels (B, H, W) int64, which balancing counts in training mode; None: all alike."""
        if not self.balanced:
            return self.given
        if self.training:
            self._count(labels)
        frequency = self.pixels.float()
        seen = frequency > 0
        median = frequency.masked_fill(~seen, torch.nan).nanmedian()
        return (median / frequency).sqrt().where(seen, 1.0)

    @torch.no_grad()
    def _count(self, labels: Tensor) -> None:
        counts = labels.new_zeros(IGNORE + 1)
        counts = counts.scatter_add(0, labels.flatten(), torch.ones_like(labels).flatten())
        self.pixels += sum_over_processes(counts[: len(self.pixels)])


def _check(K: int, weights: Weighting) -> None:
    if not 1 <= K <= IGNORE:
        raise ValueError(f"The segmentation data has {K} classes; expected 1 ... {IGNORE}.")
    if weights is None or isinstance(weights, str):
        return
    if len(weights) != K:
        raise ValueError(
            f"class_weights has {len(weights)} numbers for {K} classes: write one a class, in their order."
        )
    if not _sensible(weights):
        raise ValueError(f"class_weights is {list(weights)}; expected finite numbers from 0 on, not all of them 0.")


def _sensible(weights: Sequence[float]) -> bool:
    return all(0 <= weight < float("inf") for weight in weights) and any(weights)
