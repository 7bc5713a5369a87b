"""The DETR head: encoder, queries, decoder, criterion and post-processing (Carion et al. 2020).

The matching minimises the paper's equation 1. The loss of a decoder layer is equation 2: cross-entropy of classes, with
"no object" weighted by 0.1, and 5 * L1 + 2 * (1 - GIoU) of matched boxes. Changes of later papers are in other heads:
`box_query_detr`, `deformable_detr`, `dino`.
"""

from collections.abc import Sequence
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from densevit.interfaces import Class, Outputs, Targets
from densevit.layers.mlp import Mlp
from densevit.layers.positions import LearnedPositions
from densevit.losses.matching import MatchingCosts
from densevit.losses.set_losses import LossWeights
from densevit.set_prediction.head import SetPredictionHead
from densevit.set_prediction.limits import check_weights
from densevit.set_prediction.memory import Memory
from densevit.set_prediction.projections import CoarsestProjection
from densevit.set_prediction.queries import Queries, QueryTable
from densevit.set_prediction.transformer import Decoder, DecoderLayer, EncoderLayer, Transformer, encode
from densevit_heads.detr.criterion import DetrCriterion


class Detr(SetPredictionHead):
    """Detection as set prediction, with bipartite matching and no NMS (Carion et al. 2020).

    positions: "sine", counted over the image without padding, or "learned" row and column embeddings.
    pre_norm: layer norm before each branch instead of after it.
    no_object_weight: weight of "no object" in the class loss.
    costs, loss_weights: weights of the terms of the matching cost and of the loss.
    auxiliary_losses: a loss after each decoder layer instead of the last only.
    """

    softmax: ClassVar[bool] = True
    criterion: DetrCriterion

    def __init__(
        self,
        channels: Sequence[int],
        strides: Sequence[int],
        classes: Sequence[Class],
        num_queries: int = 100,
        transformer: Transformer = Transformer(),
        positions: Literal["sine", "learned"] = "sine",
        pre_norm: bool = False,
        no_object_weight: float = 0.1,
        costs: MatchingCosts = MatchingCosts(),
        loss_weights: LossWeights = LossWeights(),
        auxiliary_losses: bool = True,
    ) -> None:
        super().__init__(channels, strides, classes, num_queries)
        self.transformer = transformer
        check_weights({"no_object_weight": no_object_weight})
        self.criterion = DetrCriterion(
            costs, loss_weights, no_object_weight=no_object_weight, num_queries=num_queries, auxiliary=auxiliary_losses
        )
        width = transformer.width
        self.project = CoarsestProjection(channels, strides, width)
        self.positions = LearnedPositions(width) if positions == "learned" else None
        self.encoder = nn.ModuleList(EncoderLayer(transformer, pre_norm) for _ in range(transformer.encoder_layers))
        self.encoder_norm = nn.LayerNorm(width) if pre_norm else nn.Identity()
        self.decoder = Decoder(DecoderLayer(transformer, pre_norm) for _ in range(transformer.decoder_layers))
        self.decoder_norm = nn.LayerNorm(width)
        self.label_head = nn.Linear(width, len(classes) + 1)  # the last is "no object"
        self.box_head = Mlp(width, width, 4, 3)
        self.query_embedding = QueryTable(num_queries, width)

    def forward(self, features: list[Tensor], padding_mask: Tensor, targets: list[Targets] | None = None) -> Outputs:
        """`logits` (B, Q, K+1) and `boxes` (B, Q, 4) of the last layer, and of all `layers`, (L, B, Q, ...)."""
        return self.detect(self.encode(self.project(features), padding_mask), targets)[0]

    def encode(self, x: Tensor, padding_mask: Tensor) -> Memory:
        """The encoder's output. x: (B, C, H, W), the projected feature map. padding_mask: the argument of `forward`."""
        return encode(x, padding_mask, self.project.stride, self.encoder, self.encoder_norm, self.positions)

    def detect(self, memory: Memory, targets: list[Targets] | None) -> tuple[Outputs, Tensor]:
        """The outputs of `forward`, and the states of the queries after the last layer, (B, Q, C)."""
        positions = self.query_embedding.weight.expand(memory.tokens.shape[0], -1, -1)  # (B, Q, C)
        states = self.decoder(Queries(torch.zeros_like(positions), positions), memory, self.decoder_norm)
        logits, boxes = self.label_head(states), self.box_head.in_full_precision(states).sigmoid()
        return {"logits": logits[-1], "boxes": boxes[-1], "layers": (logits, boxes)}, states[-1]

    def attention_bias(self, boxes: Tensor, memory: Memory) -> Tensor | None:
        """The bias that boxes (B, Q, 4) add to cross-attention scores: None; DAB-DETR overrides it."""
        return None
