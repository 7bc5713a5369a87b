"""Masks of queries, compared with masks of objects at points (RF-DETR, Robinson et al. 2025)."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from densevit.interfaces import Targets
from densevit.losses.matching import MatchedPairs
from densevit.set_prediction.mask_criterion import image_shares, mask_losses
from densevit.set_prediction.mask_matching import MaskWeights, mask_costs
from densevit.set_prediction.mask_segments import MaskSegments, PaddingMode

POINT_RATIO = 16  # pixels of a mask for each point


class NearestSegments(MaskSegments):
    """Segments sampled at the nearest pixel instead of bilinearly."""

    def at(self, targets: Tensor, points: Tensor) -> Tensor:
        """Whether points are on segments; see `MaskSegments.at`."""
        extents = self.extents[targets][:, None]  # (R, 1, 2)
        return super().at(targets, ((points * extents).floor() + 0.5) / extents)


class PointMasks(NamedTuple):
    """The masks of the T objects of b labelled images, and per-pixel features of M layers, which embeddings of queries
    turn into mask logits.

    pixels: (M, b, C, h, w). scales: the shares of `pixels` that the images cover (`image_shares`). size: (height,
    width) of the largest image's mask. generator: the generator of random points; None: torch's. padding_mode: the
    argument of `sample`.
    """

    segments: MaskSegments
    pixels: Tensor
    scales: Tensor
    size: tuple[int, int]
    generator: torch.Generator | None
    padding_mode: PaddingMode

    @classmethod
    def of(
        cls,
        targets: Sequence[Targets],
        pixels: Tensor,
        stride: int,
        generator: torch.Generator | None,
        padding_mode: PaddingMode,
    ) -> "PointMasks":
        """targets: of the b images, at least one. stride: the stride of the masks."""
        segments = NearestSegments.of([*targets], "instance", 0, pixels.device)
        height, width = (-(-max(sides) // stride) for sides in zip(*segments.sizes, strict=True))
        shares = image_shares(segments.sizes, pixels, stride)
        return cls(segments, pixels, shares, (height, width), generator, padding_mode)

    def costs(self, embeddings: Tensor, weights: MaskWeights) -> Tensor:
        """The costs (M, T, N) of masks in the matching. embeddings: (M, b, N, C), of N queries."""
        options = (self._count(), weights, self.generator, self.padding_mode)
        return mask_costs(embeddings, self.pixels, self.segments, self.scales, *options)

    def losses(self, embeddings: Tensor, pairs: MatchedPairs) -> Tensor:
        """The binary cross-entropy and dice of pairs, summed, (2, M). embeddings: (M, b, N, C)."""
        count = max(self.size[0], self._count())
        options = (count, self.generator, self.padding_mode)
        return mask_losses(embeddings, self.pixels, self.segments, self.scales, pairs, *options)

    def _count(self) -> int:
        """The number of points of a mask."""
        return max(1, self.size[0] * self.size[1] // POINT_RATIO)
