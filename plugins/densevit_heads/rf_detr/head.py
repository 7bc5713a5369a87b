"""The head of RF-DETR (Robinson et al. 2025) and LW-DETR (Chen et al. 2024).

In each group of queries, the matching minimises 2 * focal cost + 5 * L1 - 2 * GIoU. The loss of a decoder layer and of
the selected cells is the IoU-aware binary cross-entropy + 5 * L1 + 2 * (1 - GIoU), as in the authors' code.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from densevit.interfaces import Class, Outputs, Targets
from densevit.layers.deformable_attention import MultiScaleDeformableAttention
from densevit.layers.mlp import Mlp
from densevit.layers.norms import LayerNorm2d
from densevit.layers.positions import mask_on_grid, sine_boxes
from densevit.losses.matching import MatchingCosts
from densevit.losses.set_losses import LossWeights
from densevit.set_prediction.deformable_transformer import DeformableDecoderLayer
from densevit.set_prediction.head import SetPredictionHead
from densevit.set_prediction.levels import Levels
from densevit.set_prediction.limits import MAX_LAYERS, check_counts
from densevit.set_prediction.prediction_layers import box_head, label_head
from densevit.set_prediction.queries import BoxQueries
from densevit_heads.parts.decoder_options import DecoderTransformer
from densevit_heads.rf_detr.group_criterion import GroupCriterion
from densevit_heads.rf_detr.queries import GroupQueries, reparameterized

COSTS = MatchingCosts(label=2.0)


@dataclass(frozen=True)
class GroupTransformer(DecoderTransformer):
    """`DecoderTransformer` with the defaults of RF-DETR. num_heads: heads of self-attention."""

    decoder_layers: int = 3


class RfDetr(SetPredictionHead):
    """A light-weight decoder on the levels of a ViT's projector, trained with groups of queries (RF-DETR, LW-DETR).

    The levels are the features, fine to coarse; features of another width than the decoder's are projected. All layers
    predict relative to the boxes of the queries ("lite reference point refinement"), with shared prediction heads.

    cross_attention_heads, num_points: the heads of deformable attention, and its points per head and level.
    num_groups: groups of `num_queries` queries in training (Group DETR, Chen et al. 2023); the first one predicts.
    costs, loss_weights: weights of the terms of the matching cost and of the loss.
    deterministic: the attention's backward pass on a GPU uses no atomic additions; on a CPU it never does.
    """

    def __init__(
        self,
        channels: Sequence[int],
        strides: Sequence[int],
        classes: Sequence[Class],
        num_queries: int = 300,
        transformer: GroupTransformer = GroupTransformer(),
        cross_attention_heads: int = 16,
        num_points: int = 2,
        num_groups: int = 13,
        costs: MatchingCosts = COSTS,
        loss_weights: LossWeights = LossWeights(),
        deterministic: bool = False,
    ) -> None:
        super().__init__(channels, strides, classes, num_queries)
        counts = {"cross_attention_heads": cross_attention_heads, "num_points": num_points, "num_groups": num_groups}
        check_counts(counts, 1, MAX_LAYERS)
        width = transformer.width
        self.projections = nn.ModuleList(
            nn.Identity() if inputs == width else nn.Sequential(nn.Conv2d(inputs, width, 1), LayerNorm2d(width))
            for inputs in channels
        )
        self.label_head, self.box_head = label_head(width, len(classes)), box_head(width)
        self.queries = GroupQueries(num_queries, num_groups, width, self.label_head, self.box_head)
        self.query_positions = Mlp(2 * width, width, width, 2)
        arguments = (transformer, len(channels), num_points, deterministic)
        self.decoder = nn.ModuleList(DeformableDecoderLayer(*arguments) for _ in range(transformer.decoder_layers))
        for layer in self.decoder:
            layer.cross_attention = MultiScaleDeformableAttention(
                width, len(channels), cross_attention_heads, num_points, deterministic
            )
        self.decoder_norm = nn.LayerNorm(width)
        self.criterion = GroupCriterion(costs, loss_weights, "iou_aware")
        for linear in (self.query_positions[0], self.query_positions.last):
            nn.init.xavier_uniform_(linear.weight)  # type: ignore[arg-type]

    def forward(self, features: list[Tensor], padding_mask: Tensor, targets: list[Targets] | None = None) -> Outputs:
        """`logits` (B, Q, K) and `boxes` (B, Q, 4) of the last layer, of the first group.

        Also `layers`, logits (1 + L, B, G, Q, K) and boxes (1 + L, B, G, Q, 4) of the proposals and of all layers.
        """
        return self.detect([project(x) for project, x in zip(self.projections, features, strict=True)], padding_mask)[0]

    def detect(self, maps: list[Tensor], padding_mask: Tensor) -> tuple[Outputs, Tensor, Tensor]:
        """The outputs, the features of the proposals (B, G * Q, C), and the states of all layers (L, B, G * Q, C).

        maps: the projected levels (B, C, H, W).
        """
        levels = Levels.of(maps, [mask_on_grid(padding_mask, (x.shape[-2], x.shape[-1])) for x in maps])
        proposals, queries = self.queries(levels)
        states = self._decode(queries, levels, proposals.boxes.shape[1])
        boxes = reparameterized(queries.boxes, self.box_head.in_full_precision(states))
        grouping = (2, (proposals.boxes.shape[1], -1))
        logits = torch.cat([proposals.logits[None], self.label_head(states).unflatten(*grouping)])
        boxes = torch.cat([proposals.boxes[None], boxes.unflatten(*grouping)])
        outputs = {"logits": logits[-1, :, 0], "boxes": boxes[-1, :, 0], "layers": (logits, boxes)}
        return outputs, proposals.features.flatten(1, 2), states

    def _decode(self, queries: BoxQueries, levels: Levels, groups: int) -> Tensor:
        """Returns the normalised states (L, B, G * Q, C). groups: G."""
        x, on_maps = queries.contents, levels.on_maps(queries.boxes)
        column, row, width, height = on_maps[:, :, 0].unbind(-1)  # as the authors, on the finest map
        sines = sine_boxes(torch.stack([row, column, width, height], dim=-1), x.shape[-1] // 2, temperature=10000.0)
        positions = self.query_positions(sines.to(self.query_positions.last.weight.dtype))
        states = []
        for layer in self.decoder:
            x = layer(x, positions, on_maps, levels.tokens, levels.shapes, levels.padding, None, groups)
            states.append(self.decoder_norm(x))
        return torch.stack(states)
