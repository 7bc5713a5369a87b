"""The DETR head: encoder, queries, decoder, criterion and post-processing."""

from collections.abc import Sequence
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from densevit.interfaces import (
    Class,
    Dataset,
    Head,
    LossContext,
    Losses,
    Outputs,
    Predictions,
    RecordedAttention,
    Targets,
)
from densevit.layers.mlp import Mlp
from densevit.layers.positions import LearnedPositions, mask_on_grid, sine_map
from densevit.losses.matching import MatchingCosts, Objects
from densevit.losses.set_prediction import Classification
from densevit_heads.detr.box_positions import BoxPositionBias, BoxPositions
from densevit_heads.detr.decoders import BoxDecoder, Decoder
from densevit_heads.detr.memory import CoarsestProjection, FusedProjection, Memory, cell_centres
from densevit_heads.detr.queries import DistinctQueries, anchor_queries, learned_queries, proposed_queries
from densevit_heads.detr.transformer import DecoderLayer, EncoderLayer
from densevit_heads.set_prediction.boxes import inverse_sigmoid
from densevit_heads.set_prediction.criterion import LossWeights, SetCriterion, object_counts
from densevit_heads.set_prediction.denoising import build_denoising
from densevit_heads.set_prediction.limits import MAX_LAYERS, check_classes, check_counts, check_weights
from densevit_heads.set_prediction.predictions import exported_predictions, top_predictions, top_queries
from densevit_heads.set_prediction.proposals import Proposals


class Detr(Head):
    """Detection as set prediction, with bipartite matching and no NMS (Carion et al. 2020).

    The defaults are the paper's: features -> `_encode` -> `learned_queries` -> `Decoder` -> `SetCriterion`. The options
    after `auxiliary_losses` come from later papers on faster convergence and are off by default; each has its own part.

    positions: "sine", counted over the image without padding, or "learned" row and column embeddings.
    pre_norm: layer norm before each branch instead of after it.
    no_object_weight: weight of "no object" in the class loss, for "softmax" only.
    label_cost, l1_cost, giou_cost: weights of the matching cost. label_weight, l1_weight, giou_weight: of the loss.
    auxiliary_losses: a loss after each decoder layer instead of the last only.

    memory_stride: finest stride of the features to use, coarser ones are fused into it (`FusedProjection`); None: the
        coarsest only. fusion_blocks: residual convolution blocks after the fusion (RT-DETR).
    classification: "softmax" with a no-object class, "focal" (Deformable DETR), or a loss whose target is the IoU of
        the box: "varifocal" (VarifocalNet, RT-DETR) or "mal", the matchability-aware loss (DEIM).
    anchors: queries are boxes, refined by each decoder layer (DAB-DETR; `BoxDecoder`).
    position_bias: biases cross-attention by the position of a cell relative to the box (SMCA, Plain DETR;
        `BoxPositionBias`); needs `anchors`.
    two_stage: initial boxes are the top-scoring proposals, one per cell (Deformable DETR, A.4; `Proposals`), instead of
        learned; needs `anchors`.
    denoising: number of groups of denoising queries in training (DN-DETR; `Denoising`); needs `anchors`; 0 disables.
    dense_loss: weight of a one-to-many loss on all cells in training; 0 disables.
    contrastive_denoising: number of positive denoising queries of an image in training, each with a negative one (DINO;
        `ContrastiveDenoising`); instead of `denoising`; needs `anchors`; 0 disables.
    look_forward_twice: the box loss of a layer also trains the offsets of the layer before (DINO, section 3.5); needs
        `anchors`.
    """

    task = "detection"
    needs: ClassVar[tuple[str, ...]] = ("boxes", "labels")

    def __init__(
        self,
        channels: Sequence[int],
        strides: Sequence[int],
        classes: Sequence[Class],
        num_queries: int = 100,
        width: int = 256,
        num_heads: int = 8,
        encoder_layers: int = 6,
        decoder_layers: int = 6,
        feedforward: int = 2048,
        dropout: float = 0.1,
        positions: Literal["sine", "learned"] = "sine",
        pre_norm: bool = False,
        no_object_weight: float = 0.1,
        label_cost: float = 1.0,
        l1_cost: float = 5.0,
        giou_cost: float = 2.0,
        label_weight: float = 1.0,
        l1_weight: float = 5.0,
        giou_weight: float = 2.0,
        auxiliary_losses: bool = True,
        memory_stride: int | None = None,
        fusion_blocks: int = 0,
        classification: Classification = "softmax",
        anchors: bool = False,
        position_bias: bool = False,
        two_stage: bool = False,
        denoising: int = 0,
        dense_loss: float = 0.0,
        contrastive_denoising: int = 0,
        look_forward_twice: bool = False,
        distinct_queries: float = 0.0,
    ) -> None:
        super().__init__(channels, strides, classes)
        for option, value in {
            "position_bias": position_bias,
            "two_stage": two_stage,
            "denoising": denoising,
            "contrastive_denoising": contrastive_denoising,
            "look_forward_twice": look_forward_twice,
            "distinct_queries": distinct_queries,
        }.items():
            if value and not anchors:
                raise ValueError(f"{option} needs box queries. Fix: set anchors to true.")
        if fusion_blocks and memory_stride is None:
            raise ValueError("fusion_blocks need fused features. Fix: set memory_stride.")
        if two_stage and classification == "softmax":
            raise ValueError(
                "two_stage ranks cells by class scores without 'no object'. "
                "Fix: set classification to mal, varifocal or focal."
            )
        if two_stage and not auxiliary_losses:
            raise ValueError("two_stage trains its proposals by an auxiliary loss. Fix: set auxiliary_losses to true.")
        if distinct_queries:
            self._check_distinct(distinct_queries, dense_loss, two_stage, max(denoising, contrastive_denoising))
        check_counts({"decoder_layers": decoder_layers}, 1, MAX_LAYERS)
        check_counts({"encoder_layers": encoder_layers, "fusion_blocks": fusion_blocks}, 0, MAX_LAYERS)
        check_counts({"num_queries": num_queries, "num_heads": num_heads, "feedforward": feedforward})
        check_counts({"memory_stride": 1 if memory_stride is None else memory_stride})
        check_weights({"label_cost": label_cost, "l1_cost": l1_cost, "giou_cost": giou_cost})
        check_weights({"label_weight": label_weight, "l1_weight": l1_weight, "giou_weight": giou_weight})
        check_weights({"no_object_weight": no_object_weight, "dense_loss": dense_loss})
        if width % 4 or width < 4:
            raise ValueError(f"width is {width}; it must be a multiple of 4 (sine and cosine of rows and columns).")
        check_classes(classes)
        K = len(classes)
        self.num_queries = num_queries
        self.criterion = SetCriterion(
            num_queries,
            MatchingCosts(label_cost, l1_cost, giou_cost),
            LossWeights(label_weight, l1_weight, giou_weight),
            classification,
            no_object_weight,
            auxiliary_losses,
            denoising > 0 or contrastive_denoising > 0,
            dense_loss,
        )

        self.project: CoarsestProjection | FusedProjection
        if memory_stride is None:
            self.project = CoarsestProjection(channels, strides, width)
        else:
            self.project = FusedProjection(channels, strides, width, memory_stride, fusion_blocks)
        self.positions = LearnedPositions(width) if positions == "learned" else None
        layer = (width, num_heads, feedforward, dropout, pre_norm)
        self.encoder = nn.ModuleList(EncoderLayer(*layer) for _ in range(encoder_layers))
        self.encoder_norm = nn.LayerNorm(width) if pre_norm else nn.Identity()
        layers = (DecoderLayer(*layer) for _ in range(decoder_layers))
        self.decoder: Decoder | BoxDecoder = BoxDecoder(layers, look_forward_twice) if anchors else Decoder(layers)
        self.decoder_norm = nn.LayerNorm(width)
        self.label_head = nn.Linear(width, K + (classification == "softmax"))
        self.box_head = Mlp(width, width, 4, 3)
        if classification != "softmax":
            nn.init.constant_(self.label_head.bias, -4.6)  # a probability of 0.01
        if anchors:  # the refinement starts at zero
            nn.init.zeros_(self.box_head.last.weight)
            nn.init.zeros_(self.box_head.last.bias)

        if distinct_queries:  # class scores are refined as boxes are
            nn.init.zeros_(self.label_head.weight)
            nn.init.zeros_(self.label_head.bias)

        # Positions in DETR, contents with anchors.
        self.query_embedding = None if distinct_queries else nn.Embedding(num_queries, width)
        learned = anchors and not two_stage and not distinct_queries
        self.anchors = nn.Parameter(inverse_sigmoid(torch.rand(num_queries, 4))) if learned else None
        self.box_positions = BoxPositions(width) if anchors else None
        self.position_bias = BoxPositionBias(num_heads) if position_bias else None
        self.proposals = Proposals(width, K) if two_stage else None
        self.distinct = DistinctQueries(width, num_queries, distinct_queries) if distinct_queries else None
        self.denoising = build_denoising(width, K, denoising, contrastive_denoising)
        self.dense = Proposals(width, K) if dense_loss else None

    def forward(self, features: list[Tensor], padding_mask: Tensor, targets: list[Targets] | None = None) -> Outputs:
        """`logits` (B, Q, K+1 or K) and `boxes` (B, Q, 4) of the last layer, and of all `layers`, (L, B, Q, ...).

        With `two_stage`, the proposals are the first layer. Training adds `dense` and `denoising` for the loss.
        """
        return self._detect(self._encode(self.project(features), padding_mask), targets)[0]

    def _detect(self, memory: Memory, targets: list[Targets] | None) -> tuple[Outputs, Tensor]:
        """The outputs of `forward`, and the states of the queries after the last layer, (B, Q, C)."""
        outputs: Outputs = {}
        cells = None
        if self.dense is not None and (self.training or self.distinct is not None):
            cells = self.dense(memory.tokens, memory.centres)
        if self.training and cells is not None:
            outputs["dense"] = (*cells, memory.centres, memory.padding)  # each (B, S, ...)
        if isinstance(self.decoder, BoxDecoder):
            states, logits, boxes = self._decode_boxes(memory, targets if self.training else None, outputs, cells)
        else:
            states, logits, boxes = self._decode(memory)
        return {**outputs, "logits": logits[-1], "boxes": boxes[-1], "layers": (logits, boxes)}, states

    def _encode(self, x: Tensor, padding_mask: Tensor) -> Memory:
        """x: (B, C, H, W), the projected features."""
        size = (x.shape[-2], x.shape[-1])
        padding = mask_on_grid(padding_mask, size)
        encoding = sine_map(padding, x.shape[1]) if self.positions is None else self.positions(padding)
        positions = encoding.flatten(1, 2).to(x.dtype)  # (B, S, C)
        padding = padding.flatten(1)
        attention_bias = torch.zeros_like(padding, dtype=x.dtype).masked_fill(padding, float("-inf"))[:, None, None]
        x = x.flatten(2).transpose(1, 2)  # (B, S, C)
        for layer in self.encoder:
            x = layer(x, positions, attention_bias)
        x = self.encoder_norm(x)
        centres, cell = cell_centres(padding_mask, size, self.project.stride)
        return Memory(x, x + positions, padding, attention_bias, centres, cell, size)

    def _decode(self, memory: Memory) -> tuple[Tensor, Tensor, Tensor]:
        """DETR's decoder. Returns the last states (B, Q, C), logits (L, B, Q, K+1) and boxes (L, B, Q, 4)."""
        assert self.query_embedding is not None
        queries = learned_queries(self.query_embedding, memory.tokens.shape[0])
        x = self.decoder(queries, memory, self.decoder_norm)
        return x[-1], self.label_head(x), self.box_head.in_full_precision(x).sigmoid()

    def _decode_boxes(
        self, memory: Memory, targets: list[Targets] | None, outputs: Outputs, cells: tuple[Tensor, Tensor] | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Decoder with box queries. Returns the last states (B, Q, C), logits (L, B, Q, K) and boxes (L, B, Q, 4).

        cells: the dense predictions, logits (B, S, K) and boxes (B, S, 4).
        Denoising queries are left out of all three. The proposals are the first layer.
        """
        proposed = scores = None
        if self.distinct is not None:
            assert cells is not None
            queries, scores = self.distinct(*cells, memory)
        elif self.anchors is not None:
            assert self.query_embedding is not None
            queries = anchor_queries(self.query_embedding, self.anchors, memory.tokens.shape[0])
        else:
            assert self.proposals is not None and self.query_embedding is not None
            queries, proposed = proposed_queries(self.query_embedding, self.proposals, memory)
        denoising = None
        if self.denoising is not None and targets is not None:
            outputs["objects"] = objects = Objects.of(targets, queries.boxes.device)
            denoising = self.denoising(objects, queries.boxes.shape[1])
            queries = denoising.prepended_to(queries)
        query_attention_bias = None if denoising is None else denoising.attention_bias
        parts = (self.decoder_norm, self.box_head, self.box_positions, self.position_bias)
        states, boxes = self.decoder(queries, memory, *parts, query_attention_bias)
        logits = self.label_head(states)
        if scores is not None:
            logits = logits + scores
        if denoising is not None:
            outputs["denoising"], logits, boxes = denoising.split(logits, boxes)
        if proposed is not None:
            logits = torch.cat([proposed[0][None].to(logits.dtype), logits])
            boxes = torch.cat([proposed[1][None], boxes])
        return states[-1][:, -boxes.shape[2] :], logits, boxes

    @staticmethod
    def _check_distinct(threshold: float, dense_loss: float, two_stage: bool, denoising: int) -> None:
        if not 0 < threshold <= 1:
            raise ValueError(f"distinct_queries is {threshold}; an IoU of 0 to 1 is expected.")
        if not dense_loss:
            raise ValueError("distinct_queries are dense predictions. Fix: set dense_loss.")
        if two_stage or denoising:
            other = "two_stage" if two_stage else "denoising"
            raise ValueError(f"distinct_queries and {other} are both set. Fix: leave one out.")

    def check(self, dataset: Dataset) -> None:
        """Warns if training images have more objects than queries."""
        super().check(dataset)
        self.criterion.check(dataset)

    def loss_counts(self, targets: list[Targets]) -> dict[str, float]:
        groups = None if self.denoising is None else self.denoising.groups_of
        return self.criterion.loss_counts(object_counts(targets), groups)

    def loss(self, outputs: Outputs, targets: list[Targets], context: LossContext) -> Losses:
        """Returns `label`, `l1`, `giou` of the last layer, `auxiliary` (sum of the others), `denoising` and `dense`."""
        return self.criterion.losses(outputs, targets, context)

    def predict(self, outputs: Outputs, targets: list[Targets]) -> list[Predictions]:
        """Returns the Q top-scoring (query, class) pairs by descending score; with softmax, one class per query."""
        return top_predictions(outputs, targets, softmax=self.criterion.classification == "softmax")

    def inspect_objects(
        self, recorded: Sequence[RecordedAttention], outputs: Outputs, size: tuple[int, int]
    ) -> Tensor | None:
        """Cross-attention of the last decoder layer, the mean over its heads (Carion et al. 2020, figure 6)."""
        weights = [one.weights for one in recorded if one.name.endswith("cross_attention")][-1]
        query = top_queries(outputs["logits"], self.criterion.classification == "softmax")[2][0]
        maps = weights[0].mean(0)[-outputs["logits"].shape[1] :]  # (Q, S)
        grid = (-(-size[0] // self.project.stride), -(-size[1] // self.project.stride))
        return maps[query].unflatten(1, grid)

    def exported(
        self, outputs: Outputs, size: tuple[int, int], original_size: tuple[int, int] | None = None
    ) -> dict[str, Tensor]:
        """`boxes` (B, Q, 4) xyxy and `scores` (B, Q, K) of all queries."""
        return exported_predictions(outputs, original_size or size, softmax=self.criterion.classification == "softmax")
