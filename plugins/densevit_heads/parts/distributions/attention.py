"""The decoder's cross-attention: deformable attention to the memory itself."""

from collections.abc import Sequence

from torch import nn

from densevit.layers.deformable_attention import MultiScaleDeformableAttention


class UnprojectedDeformableAttention(MultiScaleDeformableAttention):
    """Multi-scale deformable attention without value and output projections (Peng et al. 2024).

    The values are the memory, split into heads. points: the number of points of each level.
    """

    def __init__(self, width: int, heads: int, points: Sequence[int], deterministic: bool = False) -> None:
        super().__init__(width, len(points), heads, tuple(points), deterministic)
        self.value = self.output = nn.Identity()  # type: ignore[assignment]
