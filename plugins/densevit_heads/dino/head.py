"""The DINO head: a two-stage Deformable DETR with contrastive denoising and mixed queries (Zhang et al. 2023).

The loss of a decoder layer is Deformable DETR's with weight 1 of the focal loss. The proposals that became queries have
the same loss. So have denoising queries, without matching: positive queries learn their object, negative queries "no
object" (section 3.3). Two parts differ from the authors' model, as in detrex: each decoder layer has its own prediction
heads, and the encoder's sine positions have temperature 10000.
"""

import copy
from collections.abc import Sequence
from typing import Literal, cast

import torch
from torch import Tensor, nn

from densevit.interfaces import Class, Outputs, Targets
from densevit.layers.mlp import Mlp
from densevit.losses.matching import MatchingCosts
from densevit.losses.set_losses import LossWeights
from densevit.set_prediction.box_refinement import look_forward_twice, refine
from densevit.set_prediction.criterion import SetCriterion
from densevit.set_prediction.deformable_transformer import DeformableDecoderLayer, DeformableEncoderLayer, encode
from densevit.set_prediction.denoising import ContrastiveDenoising
from densevit.set_prediction.head import SetPredictionHead
from densevit.set_prediction.levels import LevelProjections, Levels, check_levels
from densevit.set_prediction.limits import check_counts
from densevit.set_prediction.prediction_layers import EPS, box_head, label_head
from densevit.set_prediction.queries import BoxQueries, Queries
from densevit.set_prediction.query_selection import TwoStage
from densevit.set_prediction.transformer import Transformer
from densevit_heads.dino.queries import MixedQuerySelection, RefinedPositions
from densevit_heads.parts.denoised_queries import with_denoising


class Dino(SetPredictionHead):
    """Deformable DETR with two stages, contrastive denoising and mixed query selection (DINO, Zhang et al. 2023).

    transformer, num_levels, min_stride, num_points, costs, loss_weights, deterministic: the options of
        `deformable_detr`.
    contrastive_denoising: number of positive denoising queries of an image in training, each with a negative one
        (section 3.3; `ContrastiveDenoising`); 0 disables.
    mixed_query_selection: the proposals give the positions of queries; contents are learned (section 3.4;
        `MixedQuerySelection`).
    refined_positions: the positions of queries follow their boxes from layer to layer (DAB-DETR; `RefinedPositions`);
        needs mixed_query_selection.
    class_proposals: proposals predict all classes, the best by any class become queries, and only these have a loss.
        False: all proposals learn to tell objects from background, as in `deformable_detr`.
    look_forward_twice: the box loss of a layer also trains the offsets of the layer before (section 3.5).
    classification: "focal" as in the paper, "varifocal" (VarifocalNet, RT-DETR) or "mal", the matchability-aware loss
        (DEIM).
    """

    criterion: SetCriterion

    def __init__(
        self,
        channels: Sequence[int],
        strides: Sequence[int],
        classes: Sequence[Class],
        num_queries: int = 900,
        transformer: Transformer = Transformer(dropout=0.0),
        num_levels: int = 4,
        min_stride: int = 8,
        num_points: int = 4,
        contrastive_denoising: int = 100,
        mixed_query_selection: bool = True,
        refined_positions: bool = True,
        class_proposals: bool = True,
        look_forward_twice: bool = True,
        classification: Literal["focal", "varifocal", "mal"] = "focal",
        costs: MatchingCosts = MatchingCosts(label=2.0),
        loss_weights: LossWeights = LossWeights(),
        deterministic: bool = False,
    ) -> None:
        super().__init__(channels, strides, classes, num_queries)
        self.finest_stride, self.partial_labels = min_stride, class_proposals
        if refined_positions and not mixed_query_selection:
            raise ValueError("refined_positions needs contents without them. Fix: set mixed_query_selection to true.")
        check_levels(transformer, num_levels, min_stride, num_points)
        check_counts({"contrastive_denoising": contrastive_denoising}, 0)
        self.look_forward_twice = look_forward_twice
        width, K = transformer.width, len(classes)
        self.levels = LevelProjections(channels, strides, width, num_levels, min_stride)
        layer = (transformer, num_levels, num_points, deterministic)
        self.encoder = nn.ModuleList(DeformableEncoderLayer(*layer) for _ in range(transformer.encoder_layers))
        self.decoder = nn.ModuleList(DeformableDecoderLayer(*layer) for _ in range(transformer.decoder_layers))
        labels, boxes = label_head(width, K), box_head(width)
        self.label_heads = nn.ModuleList(copy.deepcopy(labels) for _ in self.decoder)
        self.box_heads = nn.ModuleList(copy.deepcopy(boxes) for _ in self.decoder)
        mixed = RefinedPositions if refined_positions else MixedQuerySelection
        selection = mixed if mixed_query_selection else TwoStage
        self.queries = selection(num_queries, width, labels, boxes, class_proposals)
        self.denoising = ContrastiveDenoising(width, K, contrastive_denoising) if contrastive_denoising else None
        self.criterion = SetCriterion(
            costs,
            loss_weights,
            classification,
            denoising=self.denoising,
            class_proposals=class_proposals,
        )

    def class_rows(self, name: str, rows: int) -> Tensor | None:
        """The rows of each class. Proposals without classes have one ranking logit, row 0, for every class."""
        if name.startswith("queries.label_head.") and not self.criterion.class_proposals:
            return torch.zeros(len(self.classes), 1, dtype=torch.int64)
        return None

    def forward(self, features: list[Tensor], padding_mask: Tensor, targets: list[Targets] | None = None) -> Outputs:
        """`logits` (B, Q, K) and `boxes` (B, Q, 4) of the last layer, and of all `layers`, (L, B, Q, ...).

        Also `proposals`: logits (B, S, K) and boxes (B, S, 4), with `class_proposals` only the proposals that became
        queries. Training adds `denoising` for the loss.
        """
        levels = self.levels(features, padding_mask)
        memory = encode(levels, self.encoder)
        proposals = self.queries.propose(memory, levels)
        best = self.queries.best(proposals)
        class_proposals = self.criterion.class_proposals
        outputs: Outputs = {"proposals": best if class_proposals else (proposals.logits, proposals.boxes)}
        reference = best[1].detach()  # (B, Q, 4)
        queries = self.queries.queries(reference)
        (contents, reference), denoising = with_denoising(
            self.denoising,
            BoxQueries(queries.contents, reference),
            targets if self.training else None,
            outputs,
        )
        if denoising is not None:
            positions = torch.cat([self.queries.positions(denoising.boxes), queries.positions], dim=1)
            queries = Queries(contents, positions)
        attention_bias = None if denoising is None else denoising.attention_bias
        logits, boxes = self._decode(queries, reference, memory, levels, attention_bias)
        if denoising is not None:
            outputs["denoising"], logits, boxes = denoising.split(logits, boxes)
        return {**outputs, "logits": logits[-1], "boxes": boxes[-1], "layers": (logits, boxes)}

    def _decode(
        self, queries: Queries, reference: Tensor, memory: Tensor, levels: Levels, attention_bias: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """reference: boxes (B, Q, 4). Returns logits (L, B, Q, K) and boxes (L, B, Q, 4)."""
        x, positions = queries
        logits, boxes, undetached = [], [], reference
        for layer, labels, offsets in zip(self.decoder, self.label_heads, self.box_heads, strict=True):
            on_maps = levels.on_maps(reference)
            if isinstance(self.queries, RefinedPositions):
                positions = self.queries.positions(on_maps[:, :, 0])  # as the authors, on the finest map
            x = layer(x, positions, on_maps, memory, levels.shapes, levels.padding, attention_bias)
            logits.append(labels(x))
            head = cast(Mlp, offsets)
            if self.look_forward_twice:
                predicted, undetached = look_forward_twice(head, x, reference, undetached, EPS)
            else:
                predicted = undetached = refine(head, x, reference, EPS)
            boxes.append(predicted)
            reference = undetached.detach()
        return torch.stack(logits), torch.stack(boxes)
