"""The EoMT heads: queries in the last blocks of a ViT, upscaling, class and mask heads.

Criterion and predictions are Mask2Former's, as in the paper. `EoMT` is for panoptic, `EoMTInstance` for instance and
`EoMTSemantic` for semantic segmentation.
"""

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from densevit.interfaces import Class, Outputs, Targets
from densevit.set_prediction.mask_classification import (
    NUM_POINTS,
    InstanceMaskClassification,
    PanopticMaskClassification,
    SemanticMaskClassification,
)
from densevit_heads.parts.mask_tokens import MaskTokens

NUM_QUERIES = 200
NUM_BLOCKS = 4


class EncoderOnly(MaskTokens):
    """Base of the three heads: the backbone's last blocks process queries as tokens; see `MaskTokens`.

    The head has no neck and needs a backbone that lets it run its last blocks (`densevit.interfaces.TokenBackbone`), as
    `vit` does.

    num_queries: 100 by default in `EoMTSemantic`. num_blocks: the paper has 3 for "small" and "base".
    num_points: the number of points at which masks are compared, in matching and in losses.
    """

    def __init__(
        self,
        channels: Sequence[int],
        strides: Sequence[int],
        classes: Sequence[Class],
        num_queries: int = NUM_QUERIES,
        num_blocks: int = NUM_BLOCKS,
        num_points: int = NUM_POINTS,
    ) -> None:
        super().__init__(channels, strides, classes, num_queries, num_blocks, num_points)
        self.last_blocks = num_blocks

    def forward(self, features: Any, padding_mask: Tensor, targets: list[Targets] | None = None) -> Outputs:
        """features: a `LastBlocks`. Returns the outputs of `MaskTokens.decode`."""
        return self.decode(features)


class EoMT(PanopticMaskClassification, EncoderOnly):
    """Encoder-only mask transformer (Kerssies et al. 2025) for panoptic segmentation.

    threshold: least class probability of a segment in the panoptic map.
    max_predictions: the most instances predicted in an image; None: `num_queries`, at least 100.
    The other options: see `EncoderOnly`.
    """

    def __init__(
        self,
        channels: Sequence[int],
        strides: Sequence[int],
        classes: Sequence[Class],
        num_queries: int = NUM_QUERIES,
        num_blocks: int = NUM_BLOCKS,
        num_points: int = NUM_POINTS,
        threshold: float = 0.8,
        max_predictions: int | None = None,
    ) -> None:
        EncoderOnly.__init__(self, channels, strides, classes, num_queries, num_blocks, num_points)
        self.set_threshold(threshold)
        self.set_max_predictions(max_predictions)


class EoMTInstance(InstanceMaskClassification, EncoderOnly):
    """EoMT for instance segmentation: evaluated by box AP unless `evaluation: {name: coco_masks}`.

    max_predictions: the most instances predicted in an image; None: `num_queries`, at least 100.
    The other options: see `EncoderOnly`.
    """

    def __init__(
        self,
        channels: Sequence[int],
        strides: Sequence[int],
        classes: Sequence[Class],
        num_queries: int = NUM_QUERIES,
        num_blocks: int = NUM_BLOCKS,
        num_points: int = NUM_POINTS,
        max_predictions: int | None = None,
    ) -> None:
        EncoderOnly.__init__(self, channels, strides, classes, num_queries, num_blocks, num_points)
        self.set_max_predictions(max_predictions)


class EoMTSemantic(SemanticMaskClassification, EncoderOnly):
    """EoMT for semantic segmentation, which makes maps for test-time augmentation."""

    def __init__(
        self,
        channels: Sequence[int],
        strides: Sequence[int],
        classes: Sequence[Class],
        num_queries: int = 100,
        num_blocks: int = NUM_BLOCKS,
        num_points: int = NUM_POINTS,
    ) -> None:
        EncoderOnly.__init__(self, channels, strides, classes, num_queries, num_blocks, num_points)
