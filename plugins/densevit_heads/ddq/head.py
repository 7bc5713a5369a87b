"""The DDQ head: dense predictions, distinct queries, decoder and criterion (Zhang et al. 2023).

The loss is DETR's after each decoder layer, with the matchability-aware loss for classes (DEIM), plus `dense_loss`
times the same loss of the cells, assigned one-to-many (TOOD). The paper's dense head uses several feature levels and
its decoder deformable attention; here both use one fused map.
"""

from collections.abc import Sequence
from typing import Literal

from torch import Tensor, nn

from densevit.interfaces import Class, Outputs, Targets
from densevit.layers.mlp import Mlp
from densevit.losses.matching import MatchingCosts
from densevit.losses.set_losses import LossWeights
from densevit.set_prediction.box_decoder import BoxDecoder
from densevit.set_prediction.box_positions import BoxPositionBias, BoxPositions
from densevit.set_prediction.criterion import SetCriterion
from densevit.set_prediction.head import SetPredictionHead
from densevit.set_prediction.limits import MAX_LAYERS, check_counts, check_weights
from densevit.set_prediction.projections import FusedProjection
from densevit.set_prediction.proposals import Proposals
from densevit.set_prediction.transformer import DecoderLayer, EncoderLayer, Transformer, encode
from densevit_heads.ddq.queries import DistinctQueries


class Ddq(SetPredictionHead):
    """Dense distinct queries: a one-stage detector whose best boxes a DETR decoder refines (DDQ, Zhang et al. 2023).

    Each cell of a map predicts an object. The best predictions without near-duplicates are the queries, whose class
    scores and boxes the decoder refines; its predictions need no NMS.

    duplicate_iou: IoU above which a dense prediction is a duplicate of one with a higher score.
    stride: finest stride of the features to use, coarser ones are fused into it (`FusedProjection`).
    fusion_blocks: residual convolution blocks after the fusion (RT-DETR).
    position_bias: biases cross-attention by the position of a cell relative to the box (`BoxPositionBias`).
    classification: "mal", the matchability-aware loss (DEIM), "varifocal" (VarifocalNet) or "focal".
    dense_loss: weight of the one-to-many loss on all cells.
    costs, loss_weights: weights of the terms of the matching cost and of the loss.
    """

    def __init__(
        self,
        channels: Sequence[int],
        strides: Sequence[int],
        classes: Sequence[Class],
        num_queries: int = 100,
        transformer: Transformer = Transformer(encoder_layers=0, decoder_layers=1, dropout=0.0),
        duplicate_iou: float = 0.7,
        stride: int = 8,
        fusion_blocks: int = 4,
        position_bias: bool = True,
        classification: Literal["focal", "varifocal", "mal"] = "mal",
        dense_loss: float = 4.0,
        costs: MatchingCosts = MatchingCosts(),
        loss_weights: LossWeights = LossWeights(),
    ) -> None:
        super().__init__(channels, strides, classes, num_queries)
        self.finest_stride = stride
        if not 0 < duplicate_iou <= 1:
            raise ValueError(f"duplicate_iou is {duplicate_iou}; an IoU above 0, at most 1 is expected.")
        if not dense_loss:
            raise ValueError("dense_loss is 0; the queries are dense predictions. Fix: set dense_loss.")
        check_counts({"fusion_blocks": fusion_blocks}, 0, MAX_LAYERS)
        check_counts({"stride": stride})
        check_weights({"dense_loss": dense_loss})
        width, K = transformer.width, len(classes)
        self.criterion = SetCriterion(costs, loss_weights, classification, dense_weight=dense_loss)
        self.project = FusedProjection(channels, strides, width, stride, fusion_blocks)
        self.encoder = nn.ModuleList(EncoderLayer(transformer) for _ in range(transformer.encoder_layers))
        self.decoder = BoxDecoder(DecoderLayer(transformer) for _ in range(transformer.decoder_layers))
        self.decoder_norm = nn.LayerNorm(width)
        self.label_head, self.box_head = nn.Linear(width, K), Mlp(width, width, 4, 3)
        for last in (self.label_head, self.box_head.last):  # the refinement starts at zero
            nn.init.zeros_(last.weight)
            nn.init.zeros_(last.bias)
        self.box_positions = BoxPositions(width)
        self.position_bias = BoxPositionBias(transformer.num_heads) if position_bias else None
        self.distinct = DistinctQueries(width, num_queries, duplicate_iou)
        self.dense = Proposals(width, K)

    def forward(self, features: list[Tensor], padding_mask: Tensor, targets: list[Targets] | None = None) -> Outputs:
        """`logits` (B, Q, K) and `boxes` (B, Q, 4) of the last layer, and of all `layers`, (L, B, Q, ...).

        Training adds the predictions of the cells, `dense`, for the loss.
        """
        memory = encode(self.project(features), padding_mask, self.project.stride, self.encoder, nn.Identity())
        cells = self.dense(memory.tokens, memory.centres)  # (B, S, K), (B, S, 4)
        queries, scores = self.distinct(*cells, memory)
        parts = (self.decoder_norm, self.box_head, self.box_positions, self.position_bias)
        states, boxes = self.decoder(queries, memory, *parts)
        logits = self.label_head(states) + scores
        outputs: Outputs = {"logits": logits[-1], "boxes": boxes[-1], "layers": (logits, boxes)}
        if self.training:
            outputs["dense"] = (*cells, memory.centres, memory.padding)
        return outputs
