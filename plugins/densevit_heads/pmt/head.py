"""The PMT heads: a plain transformer over the queries and all tokens of a backbone, which may be frozen.

Criterion and predictions are Mask2Former's, as in the paper. `PMT` is for panoptic, `PMTInstance` for instance and
`PMTSemantic` for semantic segmentation.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from densevit.interfaces import Class, LastBlocks, Outputs, Targets
from densevit.layers.rotary import rotary_table
from densevit.layers.table_cache import cached_table
from densevit.set_prediction.mask_classification import (
    NUM_POINTS,
    InstanceMaskClassification,
    PanopticMaskClassification,
    SemanticMaskClassification,
)
from densevit_heads.parts.mask_tokens import MaskTokens
from densevit_heads.pmt.decoder import Lateral, RotaryBlock

NUM_QUERIES = 200
NUM_BLOCKS = 6
_HEAD_CHANNELS = 64  # of each attention head, as in DINOv3


class PlainMaskDecoder(MaskTokens):
    """Base of the three heads: a decoder of plain blocks over queries and tokens (Cavagnero et al. 2026, section 3).

    Lateral connections sum the tokens of the backbone's features, also class and register tokens; the blocks process
    them with the queries, as the last blocks of a ViT do in EoMT; see `MaskTokens`. The backbone computes what it
    computes without the head, so that it can be frozen and shared with other heads. The head has no neck and needs a
    backbone that gives its tokens (`densevit.interfaces.TokenBackbone`), as `vit` does; it takes the features of the
    coarsest stride.

    num_queries: 100 by default in `PMTSemantic`. num_blocks: the number of the decoder's blocks.
    num_points: the number of points at which masks are compared, in matching and in losses.
    """

    last_blocks = 0
    first_duration = 1 / 30  # of the run; 3,000 of 88,716 steps in the authors' configs

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
        width = channels[-1]
        num_heads = max(1, width // _HEAD_CHANNELS)
        if width % (4 * num_heads):
            raise ValueError(f"the backbone has {width} channels; a multiple of {4 * num_heads} is expected.")
        self.head_channels = width // num_heads
        levels = zip(channels, strides, strict=True)
        self.laterals = nn.ModuleList(Lateral(width) for level in levels if level == (width, strides[-1]))
        self.blocks = nn.ModuleList(RotaryBlock(width, num_heads) for _ in range(num_blocks))
        self.norm = nn.LayerNorm(width)

    def forward(self, features: Any, padding_mask: Tensor, targets: list[Targets] | None = None) -> Outputs:
        """features: a `LastBlocks` of 0 blocks. Returns the outputs of `MaskTokens.decode`."""
        last: LastBlocks = features
        levels = [lateral(x) for lateral, x in zip(self.laterals, last.features, strict=True)]
        tokens, (H, W) = torch.stack(levels).sum(0), last.grid
        first = self.num_queries + tokens.shape[1] - H * W  # tokens that are no cells
        rotation = cached_table(rotary_table, last.grid, self.head_channels, tokens.device, None, first)
        blocks = [partial(block, rotation=rotation) for block in self.blocks]
        return self.decode(LastBlocks(tokens, last.grid, blocks, self.norm))


class PMT(PanopticMaskClassification, PlainMaskDecoder):
    """Plain mask transformer (Cavagnero et al. 2026) for panoptic segmentation.

    threshold: least class probability of a segment in the panoptic map.
    max_predictions: the most instances predicted in an image; None: `num_queries`, at least 100.
    The other options: see `PlainMaskDecoder`.
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
        PlainMaskDecoder.__init__(self, channels, strides, classes, num_queries, num_blocks, num_points)
        self.set_threshold(threshold)
        self.set_max_predictions(max_predictions)


class PMTInstance(InstanceMaskClassification, PlainMaskDecoder):
    """PMT for instance segmentation: evaluated by box AP unless `evaluation: {name: coco_masks}`.

    max_predictions: the most instances predicted in an image; None: `num_queries`, at least 100.
    The other options: see `PlainMaskDecoder`.
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
        PlainMaskDecoder.__init__(self, channels, strides, classes, num_queries, num_blocks, num_points)
        self.set_max_predictions(max_predictions)


class PMTSemantic(SemanticMaskClassification, PlainMaskDecoder):
    """PMT for semantic segmentation, which makes maps for test-time augmentation."""

    def __init__(
        self,
        channels: Sequence[int],
        strides: Sequence[int],
        classes: Sequence[Class],
        num_queries: int = 100,
        num_blocks: int = NUM_BLOCKS,
        num_points: int = NUM_POINTS,
    ) -> None:
        PlainMaskDecoder.__init__(self, channels, strides, classes, num_queries, num_blocks, num_points)
