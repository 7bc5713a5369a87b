"""The Deformable DETR head: encoder, queries, decoder, criterion and post-processing."""

import copy
from collections.abc import Sequence
from typing import Literal, cast

import torch
from torch import Tensor, nn

from densevit.interfaces import Class, Dataset, Head, LossContext, Losses, Outputs, Predictions, Targets
from densevit.layers.mlp import Mlp
from densevit.losses.matching import MatchingCosts, Objects
from densevit_heads.deformable_detr.levels import GROUPS, LevelProjections, Levels
from densevit_heads.deformable_detr.prediction import EPS, box_head, label_head
from densevit_heads.deformable_detr.queries import LearnedQueries, MixedQuerySelection, RefinedPositions, TwoStage
from densevit_heads.deformable_detr.transformer import DecoderLayer, EncoderLayer
from densevit_heads.set_prediction.boxes import look_forward_twice, refine
from densevit_heads.set_prediction.criterion import LossWeights, SetCriterion, object_counts
from densevit_heads.set_prediction.denoising import DenoisingQueries, build_denoising
from densevit_heads.set_prediction.hybrid_matching import HybridMatching, hybrid_attention_bias
from densevit_heads.set_prediction.limits import MAX_LAYERS, check_classes, check_counts, check_weights
from densevit_heads.set_prediction.predictions import exported_predictions, top_predictions
from densevit_heads.set_prediction.proposals import Proposals
from densevit_heads.set_prediction.queries import BoxQueries, Queries


class DeformableDetr(Head):
    """DETR with attention to a few sampling points of several feature levels (Zhu et al. 2021).

    The defaults are the paper's; `classification`, `denoising` and `dense_loss` are options of the `detr` head.

    num_levels: number of feature levels; 1: the coarsest feature only ("single-scale").
    min_stride: finest stride of the features to use. Levels coarser than all features are added by convolutions.
    num_points: sampling points of each query, attention head and level.
    ffn_width: width of the hidden layer of feed-forward networks.
    box_refinement: each decoder layer refines the boxes of the layer before ("iterative bounding box refinement").
    two_stage: queries are the best of the boxes that the encoder proposes, instead of learned; needs box_refinement.
    classification: "focal" as in the paper, "varifocal" (VarifocalNet, RT-DETR) or "mal", the matchability-aware loss
        (DEIM).
    denoising: number of groups of denoising queries in training (DN-DETR); needs two_stage; 0 disables.
    dense_loss: weight of a one-to-many loss on the cells of all levels in training; 0 disables.
    contrastive_denoising: number of positive denoising queries of an image in training, each with a negative one (DINO;
        `ContrastiveDenoising`); instead of `denoising`; needs two_stage; 0 disables.
    mixed_query_selection: the proposals give the positions of queries; contents are learned (DINO;
        `MixedQuerySelection`); needs two_stage.
    refined_positions: the positions of queries follow their boxes from layer to layer (DAB-DETR, DINO;
        `RefinedPositions`); needs mixed_query_selection.
    class_proposals: proposals predict all classes, the best ones by any class become queries, and these only have a
        loss (DINO); otherwise all proposals learn to tell objects from background; needs two_stage.
    label_weight: weight of the class loss; 1 in DINO.
    look_forward_twice: the box loss of a layer also trains the offsets of the layer before (DINO, section 3.5); needs
        box_refinement.
    hybrid_queries: number of additional queries in training, which are matched one-to-many (H-DETR; 1500 in the paper;
        `HybridMatching`); 0 disables. hybrid_repeats: the number of them for an object.
    deterministic: the attention's backward pass on a GPU uses no atomic additions; on a CPU it never does.
    """

    task = "detection"
    needs = ("boxes", "labels")

    def __init__(
        self,
        channels: Sequence[int],
        strides: Sequence[int],
        classes: Sequence[Class],
        num_queries: int = 300,
        width: int = 256,
        num_heads: int = 8,
        num_levels: int = 4,
        min_stride: int = 8,
        num_points: int = 4,
        encoder_layers: int = 6,
        decoder_layers: int = 6,
        ffn_width: int = 1024,
        dropout: float = 0.1,
        box_refinement: bool = False,
        two_stage: bool = False,
        classification: Literal["focal", "varifocal", "mal"] = "focal",
        denoising: int = 0,
        dense_loss: float = 0.0,
        deterministic: bool = False,
        contrastive_denoising: int = 0,
        mixed_query_selection: bool = False,
        look_forward_twice: bool = False,
        hybrid_queries: int = 0,
        hybrid_repeats: int = 6,
        refined_positions: bool = False,
        class_proposals: bool = False,
        label_weight: float = 2.0,
    ) -> None:
        super().__init__(channels, strides, classes)
        if two_stage and not box_refinement:
            raise ValueError("two_stage gives the decoder boxes to refine. Fix: set box_refinement to true.")
        for option, value in {"denoising": denoising, "contrastive_denoising": contrastive_denoising}.items():
            if value and not two_stage:
                raise ValueError(f"{option} needs queries made from boxes. Fix: set two_stage to true.")
        if look_forward_twice and not box_refinement:
            raise ValueError("look_forward_twice trains refined boxes. Fix: set box_refinement to true.")
        if mixed_query_selection and not two_stage:
            raise ValueError("mixed_query_selection takes positions from proposals. Fix: set two_stage to true.")
        if refined_positions and not mixed_query_selection:
            raise ValueError("refined_positions needs contents without them. Fix: set mixed_query_selection to true.")
        if class_proposals and not two_stage:
            raise ValueError("class_proposals are proposals of the encoder. Fix: set two_stage to true.")
        check_counts({"num_levels": num_levels, "num_points": num_points}, 1, MAX_LAYERS)
        check_counts({"encoder_layers": encoder_layers, "decoder_layers": decoder_layers}, 1, MAX_LAYERS)
        check_counts({"num_queries": num_queries, "num_heads": num_heads, "min_stride": min_stride})
        check_counts({"ffn_width": ffn_width})
        check_counts({"hybrid_queries": hybrid_queries}, 0)
        check_counts({"hybrid_repeats": hybrid_repeats})
        check_weights({"dense_loss": dense_loss, "label_weight": label_weight})
        if width % GROUPS or width < GROUPS:
            raise ValueError(f"width is {width}; it must be a multiple of {GROUPS}, the groups of the group norm.")
        check_classes(classes)
        self.num_queries, self.box_refinement, self.look_forward_twice = num_queries, box_refinement, look_forward_twice
        costs, weights = MatchingCosts(label=2.0, l1=5.0, giou=2.0), LossWeights(label_weight, l1=5.0, giou=2.0)
        self.criterion = SetCriterion(  # section 4.2
            num_queries,
            costs,
            weights,
            classification,
            denoising=denoising > 0 or contrastive_denoising > 0,
            dense_weight=dense_loss,
            class_proposals=class_proposals,
            hybrid=HybridMatching(hybrid_queries, hybrid_repeats),
        )

        self.levels = LevelProjections(channels, strides, width, num_levels, min_stride)
        layer = (width, num_heads, num_levels, num_points, ffn_width, dropout, deterministic)
        self.encoder = nn.ModuleList(EncoderLayer(*layer) for _ in range(encoder_layers))
        self.decoder = nn.ModuleList(DecoderLayer(*layer) for _ in range(decoder_layers))
        labels, boxes = label_head(width, len(classes)), box_head(width)
        heads = decoder_layers if box_refinement else 1  # without refinement the layers share them
        self.label_heads = nn.ModuleList(copy.deepcopy(labels) for _ in range(heads))
        self.box_heads = nn.ModuleList(copy.deepcopy(boxes) for _ in range(heads))
        self.queries: LearnedQueries | TwoStage
        if two_stage:
            mixed = RefinedPositions if refined_positions else MixedQuerySelection
            selection = mixed if mixed_query_selection else TwoStage
            self.queries = selection(num_queries + hybrid_queries, width, labels, boxes, class_proposals)
        else:
            self.queries = LearnedQueries(num_queries + hybrid_queries, width)
            nn.init.constant_(self.box_heads[0][-1].bias[2:], -2.0)  # type: ignore[index]  # width, height: 0.12
        self.denoising = build_denoising(width, len(classes), denoising, contrastive_denoising)
        self.dense = Proposals(width, len(classes)) if dense_loss else None

    def forward(self, features: list[Tensor], padding_mask: Tensor, targets: list[Targets] | None = None) -> Outputs:
        """`logits` (B, Q, K) and `boxes` (B, Q, 4) of the last layer, and of all `layers`, (L, B, Q, ...).

        With `two_stage`, also `proposals`: logits (B, S, K) and boxes (B, S, 4), with `class_proposals` only of those
        that became queries. Training adds `dense`, `denoising` and `hybrid` for the loss.
        """
        levels = self.levels(features, padding_mask)
        memory, reference = levels.tokens, levels.on_maps(levels.centres)
        for layer in self.encoder:
            memory = layer(memory, levels, reference)
        outputs: Outputs = {}
        if self.training and self.dense is not None:
            outputs["dense"] = (*self.dense(memory, levels.centres), levels.centres, levels.padding)  # each (B, S, ...)
        queries, reference = self._queries(memory, levels, outputs)
        Q = min(self.num_queries, reference.shape[1])
        hybrid = reference.shape[1] - Q  # one-to-many queries, in training only
        denoising = attention_bias = None
        if self.training and self.denoising is not None and targets is not None:
            outputs["objects"] = objects = Objects.of(targets, memory.device)
            denoising = self.denoising(objects, Q)
            attention_bias = denoising.attention_bias
            queries, reference = self._with_denoising(denoising, queries, reference)
        if hybrid:
            others = reference.shape[1] - hybrid
            attention_bias = hybrid_attention_bias(attention_bias, others, hybrid, memory.device)
        logits, boxes = self._decode(queries, reference, memory, levels, attention_bias)
        if denoising is not None:
            outputs["denoising"], logits, boxes = denoising.split(logits, boxes)
        if self.training and self.criterion.hybrid.queries:
            outputs["hybrid"] = logits[:, :, Q:], boxes[:, :, Q:]  # (L, B, T, ...)
            logits, boxes = logits[:, :, :Q], boxes[:, :, :Q]
        return {**outputs, "logits": logits[-1], "boxes": boxes[-1], "layers": (logits, boxes)}

    def _queries(self, memory: Tensor, levels: Levels, outputs: Outputs) -> tuple[Queries, Tensor]:
        """Queries with reference points (B, Q, 2) or, of two stages, boxes (B, Q, 4).

        In training one-to-many queries follow.
        """
        if isinstance(self.queries, TwoStage):
            proposals = self.queries.propose(memory, levels)
            logits, boxes = self.queries.best(proposals)
            all_classes = self.criterion.class_proposals
            outputs["proposals"] = (logits, boxes) if all_classes else (proposals.logits, proposals.boxes)
            reference = boxes.detach()
            queries = self.queries.queries(reference)
        else:
            queries, reference = self.queries(memory.shape[0])
        if self.training or not self.criterion.hybrid.queries:
            return queries, reference
        Q = self.num_queries
        return Queries(queries.contents[:, :Q], queries.positions[:, :Q]), reference[:, :Q]

    def _with_denoising(self, noised: DenoisingQueries, queries: Queries, boxes: Tensor) -> tuple[Queries, Tensor]:
        """Denoising queries, which have the positions of their boxes, before the others."""
        assert isinstance(self.queries, TwoStage)
        positions = torch.cat([self.queries.positions(noised.boxes), queries.positions], dim=1)
        contents, boxes = noised.prepended_to(BoxQueries(queries.contents, boxes))
        return Queries(contents, positions), boxes

    def _decode(
        self, queries: Queries, reference: Tensor, memory: Tensor, levels: Levels, attention_bias: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Returns logits (L, B, Q, K) and boxes (L, B, Q, 4)."""
        x, positions = queries
        logits, boxes, undetached = [], [], reference
        for i, layer in enumerate(self.decoder):
            on_maps = levels.on_maps(reference)
            if isinstance(self.queries, RefinedPositions):
                positions = self.queries.positions(on_maps[:, :, 0])  # as the authors, on the finest map
            x = layer(x, positions, on_maps, memory, levels.shapes, levels.padding, attention_bias)
            head = i if self.box_refinement else 0
            logits.append(self.label_heads[head](x))
            box_head = cast(Mlp, self.box_heads[head])
            if self.look_forward_twice:
                predicted, undetached = look_forward_twice(box_head, x, reference, undetached, EPS)
            else:
                predicted = undetached = refine(box_head, x, reference, EPS)
            boxes.append(predicted)
            if self.box_refinement:
                reference = undetached.detach()
        return torch.stack(logits), torch.stack(boxes)

    def check(self, dataset: Dataset) -> None:
        """Warns if training images have more objects than queries."""
        super().check(dataset)
        self.criterion.check(dataset)

    def loss_counts(self, targets: list[Targets]) -> dict[str, float]:
        groups = None if self.denoising is None else self.denoising.groups_of
        return self.criterion.loss_counts(object_counts(targets), groups)

    def loss(self, outputs: Outputs, targets: list[Targets], context: LossContext) -> Losses:
        """Returns `label`, `l1`, `giou` of the last layer, `auxiliary` (sum of the others) and, by option, `proposals`,
        `denoising`, `dense` and `hybrid`."""
        return self.criterion.losses(outputs, targets, context)

    def predict(self, outputs: Outputs, targets: list[Targets]) -> list[Predictions]:
        """Returns the Q top-scoring (query, class) pairs by descending score."""
        return top_predictions(outputs, targets)

    def exported(
        self, outputs: Outputs, size: tuple[int, int], original_size: tuple[int, int] | None = None
    ) -> dict[str, Tensor]:
        """`boxes` (B, Q, 4) xyxy and `scores` (B, Q, K) of all queries."""
        return exported_predictions(outputs, original_size or size)
