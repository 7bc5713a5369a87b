"""The Deformable DETR head: encoder, queries, decoder, criterion and post-processing (Zhu et al. 2021).

The loss of a decoder layer is DETR's with focal loss for classes (section 4.2): the matching minimises 2 * focal cost +
5 * L1 - 2 * GIoU, the loss is 2 * focal loss + 5 * L1 + 2 * (1 - GIoU). With `two_stage`, all cells also learn to tell
objects from background (A.4).
"""

import copy
from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn

from densevit.interfaces import Class, Outputs, Targets
from densevit.layers.mlp import Mlp
from densevit.losses.matching import MatchingCosts
from densevit.losses.set_losses import LossWeights
from densevit.set_prediction.box_refinement import refine
from densevit.set_prediction.criterion import SetCriterion
from densevit.set_prediction.deformable_transformer import DeformableDecoderLayer, DeformableEncoderLayer, encode
from densevit.set_prediction.head import SetPredictionHead
from densevit.set_prediction.levels import LevelProjections, Levels, check_levels
from densevit.set_prediction.prediction_layers import EPS, box_head, label_head
from densevit.set_prediction.queries import Queries
from densevit.set_prediction.query_selection import TwoStage
from densevit.set_prediction.transformer import Transformer
from densevit_heads.deformable_detr.queries import LearnedQueries


class DeformableDetr(SetPredictionHead):
    """DETR with attention to a few sampling points of several feature levels (Zhu et al. 2021).

    transformer: its width is also a multiple of 32, the groups of the group norm; at least one encoder layer.
    num_levels: number of feature levels; 1: the coarsest feature only ("single-scale").
    min_stride: finest stride of the features to use. Levels coarser than all features are added by convolutions.
    num_points: sampling points of each query, attention head and level.
    box_refinement: each decoder layer refines the boxes of the layer before ("iterative bounding box refinement").
    two_stage: queries are the best of the boxes that the encoder proposes, instead of learned; needs box_refinement.
    costs, loss_weights: weights of the terms of the matching cost and of the loss.
    deterministic: the attention's backward pass on a GPU uses no atomic additions; on a CPU it never does.
    blank_padding: sets features of padding to 0 before the group norms, so that the norms do not depend on the
        backbone's output at padding; proposals of padding come last. False: as in the authors' code, for their weights.
    """

    criterion: SetCriterion

    def __init__(
        self,
        channels: Sequence[int],
        strides: Sequence[int],
        classes: Sequence[Class],
        num_queries: int = 300,
        transformer: Transformer = Transformer(feedforward=1024),
        num_levels: int = 4,
        min_stride: int = 8,
        num_points: int = 4,
        box_refinement: bool = False,
        two_stage: bool = False,
        costs: MatchingCosts = MatchingCosts(label=2.0),
        loss_weights: LossWeights = LossWeights(label=2.0),
        deterministic: bool = False,
        blank_padding: bool = True,
    ) -> None:
        super().__init__(channels, strides, classes, num_queries)
        self.finest_stride, self.partial_labels = min_stride, not two_stage  # proposals learn objects of any class
        if two_stage and not box_refinement:
            raise ValueError("two_stage gives the decoder boxes to refine. Fix: set box_refinement to true.")
        check_levels(transformer, num_levels, min_stride, num_points)
        self.box_refinement = box_refinement
        self.criterion = SetCriterion(costs, loss_weights, "focal")
        width = transformer.width
        self.levels = LevelProjections(channels, strides, width, num_levels, min_stride, blank_padding)
        layer = (transformer, num_levels, num_points, deterministic)
        self.encoder = nn.ModuleList(DeformableEncoderLayer(*layer) for _ in range(transformer.encoder_layers))
        self.decoder = nn.ModuleList(DeformableDecoderLayer(*layer) for _ in range(transformer.decoder_layers))
        labels, boxes = label_head(width, len(classes)), box_head(width)
        heads = transformer.decoder_layers if box_refinement else 1  # without refinement the layers share them
        self.label_heads = nn.ModuleList(copy.deepcopy(labels) for _ in range(heads))
        self.box_heads = nn.ModuleList(copy.deepcopy(boxes) for _ in range(heads))
        self.queries: LearnedQueries | TwoStage
        if two_stage:
            self.queries = TwoStage(num_queries, width, labels, boxes, padding_last=blank_padding)
        else:
            self.queries = LearnedQueries(num_queries, width)
            nn.init.constant_(self.box_heads[0][-1].bias[2:], -2.0)  # type: ignore[index]  # width, height: 0.12

    def class_rows(self, name: str, rows: int) -> Tensor | None:
        """The rows of each class. Proposals without classes have one ranking logit, row 0, for every class."""
        if name.startswith("queries.label_head.") and not self.criterion.class_proposals:
            return torch.zeros(len(self.classes), 1, dtype=torch.int64)
        return None

    def forward(self, features: list[Tensor], padding_mask: Tensor, targets: list[Targets] | None = None) -> Outputs:
        """`logits` (B, Q, K) and `boxes` (B, Q, 4) of the last layer, and of all `layers`, (L, B, Q, ...).

        With `two_stage`, also `proposals`: logits (B, S, K) and boxes (B, S, 4).
        """
        levels = self.levels(features, padding_mask)
        memory = encode(levels, self.encoder)
        outputs: Outputs = {}
        if isinstance(self.queries, TwoStage):
            proposals = self.queries.propose(memory, levels)
            outputs["proposals"] = (proposals.logits, proposals.boxes)
            reference = self.queries.best(proposals)[1].detach()  # (B, Q, 4)
            queries = self.queries.queries(reference)
        else:
            queries, reference = self.queries(memory.shape[0])  # (B, Q, 2)
        logits, boxes = self._decode(queries, reference, memory, levels)
        return {**outputs, "logits": logits[-1], "boxes": boxes[-1], "layers": (logits, boxes)}

    def _decode(self, queries: Queries, reference: Tensor, memory: Tensor, levels: Levels) -> tuple[Tensor, Tensor]:
        """reference: points (B, Q, 2) or boxes (B, Q, 4). Returns logits (L, B, Q, K) and boxes (L, B, Q, 4)."""
        x, positions = queries
        logits, boxes = [], []
        for i, layer in enumerate(self.decoder):
            x = layer(x, positions, levels.on_maps(reference), memory, levels.shapes, levels.padding)
            head = i if self.box_refinement else 0
            logits.append(self.label_heads[head](x))
            boxes.append(refine(cast(Mlp, self.box_heads[head]), x, reference, EPS))
            if self.box_refinement:
                reference = boxes[-1].detach()
        return torch.stack(logits), torch.stack(boxes)
