"""A DETR whose queries are boxes: encoder, boxes as queries, decoder, criterion and post-processing.

It is no paper's model, but has parts of several:

- DETR (Carion et al. 2020): encoder, decoder layers, bipartite matching, L1 and GIoU losses of all layers.
- DAB-DETR (Liu et al. 2022): queries are learned boxes, which are encoded by sine and refined by each layer. Left out:
  the modulation of attention by width and height, content and position as separate halves of queries and keys, and the
  temperature of 20.
- Deformable DETR (Zhu et al. 2021): focal loss, whose matching minimises 2 * focal cost + 5 * L1 - 2 * GIoU.
- VarifocalNet (Zhang et al. 2021) and DEIM (Huang et al. 2025): class losses with the IoU as target.
- `Extensions` names the papers of the others.
"""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from densevit.interfaces import Class, Outputs, Targets
from densevit.layers.mlp import Mlp
from densevit.losses.matching import MatchingCosts
from densevit.losses.set_losses import LossWeights
from densevit.set_prediction.box_decoder import BoxDecoder
from densevit.set_prediction.box_positions import BoxPositionBias, BoxPositions
from densevit.set_prediction.box_refinement import inverse_sigmoid
from densevit.set_prediction.criterion import SetCriterion
from densevit.set_prediction.denoising import build_denoising
from densevit.set_prediction.head import SetPredictionHead
from densevit.set_prediction.memory import Memory
from densevit.set_prediction.projections import CoarsestProjection, FusedProjection
from densevit.set_prediction.proposals import Proposals
from densevit.set_prediction.queries import QueryTable, resized_queries
from densevit.set_prediction.transformer import DecoderLayer, EncoderLayer, Transformer, encode
from densevit_heads.box_query_detr.extensions import Extensions
from densevit_heads.box_query_detr.queries import anchor_queries, proposed_queries
from densevit_heads.parts.denoised_queries import with_denoising


class BoxQueryDetr(SetPredictionHead):
    """DETR whose queries are boxes, which each decoder layer refines, with parts of several papers.

    costs, loss_weights: weights of the terms of the matching cost and of the loss.
    classification: "focal", or a loss whose target is the IoU of the box: "varifocal" (VarifocalNet, RT-DETR) or "mal",
        the matchability-aware loss (DEIM).
    extensions: additions of further papers.
    """

    def __init__(
        self,
        channels: Sequence[int],
        strides: Sequence[int],
        classes: Sequence[Class],
        num_queries: int = 300,
        transformer: Transformer = Transformer(dropout=0.0),
        costs: MatchingCosts = MatchingCosts(label=2.0),
        loss_weights: LossWeights = LossWeights(),
        classification: Literal["focal", "varifocal", "mal"] = "focal",
        extensions: Extensions = Extensions(),
    ) -> None:
        super().__init__(channels, strides, classes, num_queries)
        self.transformer = transformer
        width, K = transformer.width, len(classes)
        self.project: CoarsestProjection | FusedProjection
        if extensions.stride is None:
            self.project = CoarsestProjection(channels, strides, width)
        else:
            self.project = FusedProjection(channels, strides, width, extensions.stride, extensions.fusion_blocks)
        self.encoder = nn.ModuleList(EncoderLayer(transformer) for _ in range(transformer.encoder_layers))
        layers = (DecoderLayer(transformer) for _ in range(transformer.decoder_layers))
        self.decoder = BoxDecoder(layers)
        self.decoder_norm = nn.LayerNorm(width)
        self.label_head = nn.Linear(width, K)
        nn.init.constant_(self.label_head.bias, -4.6)  # a probability of 0.01
        self.box_head = Mlp(width, width, 4, 3)
        nn.init.zeros_(self.box_head.last.weight)  # the refinement starts at zero
        nn.init.zeros_(self.box_head.last.bias)
        self.query_embedding = QueryTable(num_queries, width)  # contents
        self.anchors = None if extensions.two_stage else nn.Parameter(inverse_sigmoid(torch.rand(num_queries, 4)))
        self.box_positions = BoxPositions(width)
        self.position_bias = BoxPositionBias(transformer.num_heads) if extensions.position_bias else None
        self.proposals = Proposals(width, K) if extensions.two_stage else None
        self.denoising = build_denoising(width, K, extensions.denoising, extensions.contrastive_denoising)
        self.criterion = SetCriterion(costs, loss_weights, classification, self.denoising, extensions.dense_loss)
        self.dense = Proposals(width, K) if extensions.dense_loss else None

    def forward(self, features: list[Tensor], padding_mask: Tensor, targets: list[Targets] | None = None) -> Outputs:
        """`logits` (B, Q, K) and `boxes` (B, Q, 4) of the last layer, and of all `layers`, (L, B, Q, ...).

        With `two_stage`, the proposals are the first layer. Training adds `dense` and `denoising` for the loss.
        """
        return self.detect(self.encode(self.project(features), padding_mask), targets)[0]

    def carried_over(self, name: str, tensor: Tensor) -> tuple[Tensor, str] | None:
        """Resizes the anchors of another number of queries; see `densevit.weights.state_dict_loading.fit`."""
        return resized_queries(tensor, self.num_queries) if name == "anchors" else None

    def encode(self, x: Tensor, padding_mask: Tensor) -> Memory:
        """The encoder's output. x: (B, C, H, W), the projected feature map. padding_mask: the argument of `forward`."""
        return encode(x, padding_mask, self.project.stride, self.encoder, nn.Identity())

    def detect(self, memory: Memory, targets: list[Targets] | None) -> tuple[Outputs, Tensor]:
        """The outputs of `forward`, and the states of the queries after the last layer, (B, Q, C)."""
        outputs: Outputs = {}
        if self.dense is not None and self.training:
            cells = self.dense(memory.tokens, memory.centres)
            outputs["dense"] = (*cells, memory.centres, memory.padding)  # each (B, S, ...)
        proposed = None
        if self.anchors is not None:
            queries = anchor_queries(self.query_embedding, self.anchors, memory.tokens.shape[0])
        else:
            assert self.proposals is not None
            queries, proposed = proposed_queries(self.query_embedding, self.proposals, memory)
        queries, denoising = with_denoising(self.denoising, queries, targets if self.training else None, outputs)
        query_attention_bias = None if denoising is None else denoising.attention_bias
        parts = (self.decoder_norm, self.box_head, self.box_positions, self.position_bias)
        states, boxes = self.decoder(queries, memory, *parts, query_attention_bias)
        logits = self.label_head(states)
        if denoising is not None:
            outputs["denoising"], logits, boxes = denoising.split(logits, boxes)
        if proposed is not None:
            logits = torch.cat([proposed[0][None].to(logits.dtype), logits])
            boxes = torch.cat([proposed[1][None], boxes])
        outputs |= {"logits": logits[-1], "boxes": boxes[-1], "layers": (logits, boxes)}
        return outputs, states[-1][:, -boxes.shape[2] :]

    def attention_bias(self, boxes: Tensor, memory: Memory) -> Tensor | None:
        """Bias of the cross-attention scores from the boxes (B, Q, 4) of queries: (B, heads, Q, S), or None."""
        return None if self.position_bias is None else self.position_bias(boxes, memory)
