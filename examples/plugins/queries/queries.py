"""A head of another package in the manner of RT-DETR (Zhao et al. 2024), made of public parts of densevit.

Fused features, one encoder layer, and queries whose contents are the features of the best cells (the paper's section
4.3) and whose boxes are those of these cells.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from densevit.interfaces import Class, Outputs, Targets
from densevit.layers.mlp import Mlp
from densevit.losses import LossWeights, MatchingCosts, Objects
from densevit.set_prediction.box_decoder import BoxDecoder
from densevit.set_prediction.box_positions import BoxPositions
from densevit.set_prediction.criterion import SetCriterion
from densevit.set_prediction.denoising import ContrastiveDenoising
from densevit.set_prediction.head import SetPredictionHead
from densevit.set_prediction.projections import FusedProjection
from densevit.set_prediction.proposals import Proposals
from densevit.set_prediction.queries import BoxQueries
from densevit.set_prediction.transformer import DecoderLayer, EncoderLayer, Transformer, encode


class RealTimeDetr(SetPredictionHead):
    """Queries are the best cells of a fused map: their features and their boxes."""

    def __init__(
        self,
        channels: Sequence[int],
        strides: Sequence[int],
        classes: Sequence[Class],
        num_queries: int = 300,
        transformer: Transformer = Transformer(encoder_layers=1, feedforward=1024, dropout=0.0),
        stride: int = 8,
        contrastive_denoising: int = 100,
    ) -> None:
        super().__init__(channels, strides, classes, num_queries)
        width = transformer.width
        self.project = FusedProjection(channels, strides, width, stride, blocks=1)
        self.encoder = nn.ModuleList(EncoderLayer(transformer) for _ in range(transformer.encoder_layers))
        self.proposals = Proposals(width, len(classes))
        self.decoder = BoxDecoder(DecoderLayer(transformer) for _ in range(transformer.decoder_layers))
        self.norm, self.positions = nn.LayerNorm(width), BoxPositions(width)
        self.label_head, self.box_head = nn.Linear(width, len(classes)), Mlp(width, width, 4, 3)
        self.denoising = ContrastiveDenoising(width, len(classes), contrastive_denoising)
        self.criterion = SetCriterion(MatchingCosts(label=2.0), LossWeights(), "varifocal", self.denoising)

    def forward(self, features: list[Tensor], padding_mask: Tensor, targets: list[Targets] | None = None) -> Outputs:
        memory = encode(self.project(features), padding_mask, self.project.stride, self.encoder, nn.Identity())
        best = self.proposals.best(memory.tokens, memory.centres, memory.padding, self.num_queries)
        queries, noised, outputs = BoxQueries(best.features.detach(), best.boxes.detach()), None, {}
        if self.training and targets is not None:
            outputs["objects"] = objects = Objects.of(targets, padding_mask.device)
            noised = self.denoising(objects, best.boxes.shape[1])
            queries = noised.prepended_to(queries)
        bias = None if noised is None else noised.attention_bias
        states, boxes = self.decoder(queries, memory, self.norm, self.box_head, self.positions, None, bias)
        logits = self.label_head(states)
        if noised is not None:
            outputs["denoising"], logits, boxes = noised.split(logits, boxes)
        logits, boxes = torch.cat([best.logits[None], logits]), torch.cat([best.boxes[None], boxes])
        return {**outputs, "logits": logits[-1], "boxes": boxes[-1], "layers": (logits, boxes)}
