"""Template of a detection head: a DETR of the parts of `densevit.set_prediction`, to be changed part by part."""

MODULE = '''\
"""A detection head for densevit: a DETR of the parts of `densevit.set_prediction`."""

from collections.abc import Sequence

import densevit
import torch
from densevit.interfaces import Outputs, Targets
from densevit.layers.mlp import Mlp
from densevit.losses.matching import MatchingCosts
from densevit.losses.set_losses import LossWeights
from densevit.set_prediction import (
    BoxPositionBias,
    BoxPositions,
    DecoderLayer,
    EncoderLayer,
    FusedProjection,
    Memory,
    Proposals,
    QueryTable,
    SetCriterion,
    SetPredictionHead,
    Transformer,
    encode,
    refine,
)
from torch import Tensor, nn

SMALL = Transformer(width=128, num_heads=4, encoder_layers=1, decoder_layers=3, feedforward=512, dropout=0.0)


class $cls(SetPredictionHead):
    """DETR (Carion et al. 2020) whose queries are boxes, which each decoder layer refines (DAB-DETR, Liu et al. 2022).

    `SetPredictionHead` has the losses, by `criterion`, the predictions, without NMS, and the export.
    """

    # densevit passes the first three arguments. The others are options in YAML, checked against their annotations.
    def __init__(
        self,
        channels: Sequence[int],
        strides: Sequence[int],
        classes: Sequence[densevit.Class],
        num_queries: int = 40,
        transformer: Transformer = SMALL,
        stride: int = 8,
    ) -> None:
        super().__init__(channels, strides, classes, num_queries)
        width = transformer.width
        # Memory: the features, fused at one stride, or at that of the last feature if all are finer; then the encoder.
        self.project = FusedProjection(channels, strides, width, min(stride, strides[-1]), blocks=1)
        self.encoder = nn.ModuleList(EncoderLayer(transformer) for _ in range(transformer.encoder_layers))
        # Queries: learned contents, and the boxes of the best cells of the memory.
        self.contents = QueryTable(num_queries, width)
        self.proposals = Proposals(width, len(classes))
        # Decoder. Put your own layers here.
        self.decoder = nn.ModuleList(DecoderLayer(transformer) for _ in range(transformer.decoder_layers))
        self.norm, self.positions = nn.LayerNorm(width), BoxPositions(width)
        self.position_bias = BoxPositionBias(transformer.num_heads)
        # The heads of classes and boxes, the same after each layer.
        self.label_head, self.box_head = nn.Linear(width, len(classes)), Mlp(width, width, 4, 3)
        nn.init.constant_(self.label_head.bias, -4.6)  # a probability of 0.01: most queries are background
        nn.init.zeros_(self.box_head.last.weight)  # the refinement starts at zero
        nn.init.zeros_(self.box_head.last.bias)
        # Bipartite matching and the losses of the pairs. A one-to-many loss on all cells makes short runs succeed.
        self.dense = Proposals(width, len(classes))
        self.criterion = SetCriterion(MatchingCosts(), LossWeights(), "mal", dense_weight=4.0)

    def forward(self, features: list[Tensor], padding_mask: Tensor, targets: list[Targets] | None = None) -> Outputs:
        """`logits` (B, Q, K) and `boxes` (B, Q, 4) cxcywh of the last layer, and of all `layers`, (L, B, Q, ...)."""
        memory = encode(self.project(features), padding_mask, self.project.stride, self.encoder, nn.Identity())
        best = self.proposals.best(memory.tokens, memory.centres, memory.padding, self.num_queries)
        x = self.contents.weight[: best.boxes.shape[1]].expand(best.boxes.shape[0], -1, -1)  # (B, Q, C)
        layers = [(best.logits, best.boxes), *self.decode(x, best.boxes.detach(), memory)]
        logits, boxes = (torch.stack(values) for values in zip(*layers, strict=True))
        outputs: Outputs = {"logits": logits[-1], "boxes": boxes[-1], "layers": (logits, boxes)}
        if self.training:
            cells = self.dense(memory.tokens, memory.centres)
            outputs["dense"] = (*cells, memory.centres, memory.padding)  # each (B, S, ...)
        return outputs

    def decode(self, x: Tensor, boxes: Tensor, memory: Memory) -> list[tuple[Tensor, Tensor]]:
        """The logits (B, Q, K) and boxes (B, Q, 4) after each layer. x: (B, Q, C), the contents of the queries."""
        layers = []
        for layer in self.decoder:
            bias = memory.attention_bias + self.position_bias(boxes, memory)  # (B, heads, Q, S), -inf at padding
            x = layer(x, self.positions(boxes), memory.tokens, memory.with_pos, bias)
            boxes = refine(self.box_head, self.norm(x), boxes)
            layers.append((self.label_head(self.norm(x)), boxes))
            boxes = boxes.detach()
        return layers
'''

CONFIG = """\
# $cls on a Swin, on the built-in scenes:
#   densevit train configs/$name.yaml
# On COCO:
#   densevit train coco/dino_r50_12ep data.root=~/coco heads.detection.name=$name \\
#       heads.detection.num_queries=300 heads.detection.transformer.width=256
base: detr_swin
heads:
  detection: {name: $name}
"""
