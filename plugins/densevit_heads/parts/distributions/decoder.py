"""The decoder: each layer refines the distributions of the edges of the first layer's boxes (section 4.1)."""

from collections.abc import Callable, Sequence
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from densevit.layers.attention import MultiHeadAttention, xavier_initialise
from densevit.layers.deformable_attention import Shapes
from densevit.layers.mlp import FeedForward, Mlp
from densevit.layers.precision import autocast_off
from densevit.layers.tracing import is_exporting
from densevit.set_prediction.box_refinement import refine
from densevit.set_prediction.levels import Levels
from densevit.set_prediction.prediction_layers import EPS, box_head, label_head
from densevit.set_prediction.queries import BoxQueries
from densevit.set_prediction.transformer import Transformer
from densevit_heads.parts.distributions.attention import UnprojectedDeformableAttention
from densevit_heads.parts.distributions.criterion import LayerOutputs
from densevit_heads.parts.distributions.distribution import boxes_from_distances, integral, weighting_function

TOP = 4  # probabilities of an edge from which its quality is estimated
QUALITY_WIDTH = 64
LARGEST = 65504.0  # of fp16
Activation = Callable[[], nn.Module]


class Gate(nn.Module):
    """Target gating: a learned, element-wise weighting of the query before and after cross-attention."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.gate = nn.Linear(2 * width, 2 * width)
        self.norm = nn.LayerNorm(width)
        nn.init.zeros_(self.gate.weight)  # both gates start at 0.5
        nn.init.zeros_(self.gate.bias)

    def forward(self, before: Tensor, attended: Tensor) -> Tensor:
        """(B, Q, C) each. Returns (B, Q, C)."""
        first, second = self.gate(torch.cat([before, attended], dim=-1)).sigmoid().chunk(2, dim=-1)
        return self.norm(first * before + second * attended)


class DistributionDecoderLayer(nn.Module):
    """Self-attention among queries, gated deformable cross-attention, then a feed-forward network (FFN).

    scale: a factor of the widths of `options`. activation: the FFN's activation.
    """

    def __init__(
        self,
        options: Transformer,
        scale: int,
        num_points: Sequence[int],
        deterministic: bool = False,
        activation: Activation = nn.ReLU,
    ) -> None:
        super().__init__()
        width, num_heads, dropout = scale * options.width, options.num_heads, options.dropout
        self.self_attention = MultiHeadAttention(width, num_heads, dropout)
        self.self_attention_norm = nn.LayerNorm(width)
        self.cross_attention = UnprojectedDeformableAttention(width, num_heads, num_points, deterministic)
        self.gate = Gate(width)
        self.ffn = FeedForward(width, scale * options.feedforward, activation, dropout)
        self.ffn_norm = nn.LayerNorm(width)
        self.dropout = nn.Dropout(dropout)
        xavier_initialise(self.ffn, self.self_attention)

    def forward(
        self,
        queries: Tensor,
        positions: Tensor,
        reference: Tensor,
        memory: Tensor,
        shapes: Shapes,
        attention_bias: Tensor | None = None,
    ) -> Tensor:
        """queries, positions: (B, Q, C). reference: (B, Q, L, 4). memory: (B, S, C). Returns (B, Q, C).

        attention_bias: added to the self-attention scores, (Q, Q) or (B, 1, Q, Q).
        """
        with_pos = queries + positions
        attended = self.self_attention(with_pos, with_pos, queries, attention_bias)
        queries = self.self_attention_norm(queries + self.dropout(attended))
        attended = self.cross_attention(queries + positions, reference, memory, shapes)
        queries = self.gate(queries, self.dropout(attended))
        queries = queries + self.dropout(self.ffn(queries))
        return self.ffn_norm(F.hardtanh(queries, -LARGEST, LARGEST))  # a clamp with one operation in the backward pass


class LocationQuality(nn.Module):
    """Location quality estimator (LQE): a term of all class logits, from how peaked the distributions are.

    As in Generalized Focal Loss V2 (Li et al. 2021, section 3.2).
    """

    def __init__(self, activation: Activation = nn.ReLU) -> None:
        super().__init__()
        self.mlp = Mlp(4 * (TOP + 1), QUALITY_WIDTH, 1, 2, activation)
        nn.init.zeros_(self.mlp.last.weight)
        nn.init.zeros_(self.mlp.last.bias)

    def forward(self, peaks: Tensor) -> Tensor:
        """peaks: (B, Q, 4 * (TOP + 1)) (`highest_probabilities`). Returns (B, Q, 1)."""
        return self.mlp.in_full_precision(peaks)


def highest_probabilities(corners: Tensor) -> Tensor:
    """The `TOP` highest probabilities of each edge, and their mean: (..., 4 * (TOP + 1)).

    corners: logits (..., 4 * (N + 1)).
    """
    top = corners.unflatten(-1, (4, -1)).softmax(-1).topk(TOP, dim=-1).values  # (..., 4, TOP)
    return torch.cat([top, top.mean(-1, keepdim=True)], dim=-1).flatten(-2)


class Refined(NamedTuple):
    """Predictions of the L decoder layers, and the initial ones, from which the distributions are offsets.

    logits: (L, B, Q, K). boxes: (L, B, Q, 4). corners: logits of the distributions (L, B, Q, 4 * (N + 1)).
    initial_boxes: (B, Q, 4). initial_logits: (B, Q, K), or None in an exported graph. states: the queries after each
    layer, (B, Q, C).
    """

    logits: Tensor
    boxes: Tensor
    corners: Tensor
    initial_boxes: Tensor
    initial_logits: Tensor | None
    states: list[Tensor]

    def outputs(self, logits: Tensor, boxes: Tensor) -> LayerOutputs:
        """The outputs that the criterion takes.

        logits: (B, Q, K) and boxes: (B, Q, 4), the proposals of the last Q queries; the values of other queries are 0.
        """
        assert self.initial_logits is not None
        first = self.boxes.shape[2] - boxes.shape[1]
        proposals = (F.pad(x, (0, 0, first, 0)) for x in (logits, boxes))
        initial = (self.initial_logits, self.initial_boxes)
        all_logits, all_boxes = (
            torch.cat([layer_values, torch.stack(further)])
            for layer_values, *further in zip(self[:2], initial, proposals, strict=True)
        )
        return LayerOutputs(all_logits, all_boxes, self.corners, self.initial_boxes)


class DistributionDecoder(nn.Module):
    """Decoder layers, each with its prediction heads.

    training_layers: layers after the layers of `options`, in training only. layer_scale: width and FFN of these layers,
    relative to `options`. num_points: the sampling points of each level. num_bins, reg_scale: the arguments of
    `weighting_function`. activation: the activation of FFNs and prediction heads.
    refined_positions: whether the positions of a layer's queries follow the boxes of the layer before, not only the
    reference boxes.
    """

    refined_positions: ClassVar[bool] = True

    def __init__(
        self,
        options: Transformer,
        num_points: Sequence[int],
        num_classes: int,
        training_layers: int,
        layer_scale: int,
        num_bins: int,
        reg_scale: float,
        deterministic: bool = False,
        activation: Activation = nn.ReLU,
    ) -> None:
        super().__init__()
        self.predicting, self.num_bins, self.reg_scale = options.decoder_layers, num_bins, reg_scale
        width = options.width
        scales = [1] * options.decoder_layers + [layer_scale] * training_layers
        self.layers = nn.ModuleList(
            DistributionDecoderLayer(options, scale, num_points, deterministic, activation) for scale in scales
        )
        self.scales = scales
        self.positions = Mlp(4, 2 * width, width, 2, activation)
        self.initial_box_head = box_head(width, activation=activation)
        self.label_heads = nn.ModuleList(label_head(width * scale, num_classes) for scale in scales)
        self.corner_heads = nn.ModuleList(
            Mlp(width * scale, width * scale, 4 * (num_bins + 1), 3, activation) for scale in scales
        )
        self.qualities = nn.ModuleList(LocationQuality(activation) for _ in scales)
        for layer in (self.positions[0], self.positions[-1]):
            nn.init.xavier_uniform_(layer.weight)  # type: ignore[arg-type]
        for head in self.corner_heads:
            nn.init.zeros_(head.last.weight)  # type: ignore[union-attr, arg-type]
            nn.init.zeros_(head.last.bias)  # type: ignore[union-attr, arg-type]

    def forward(self, queries: BoxQueries, levels: Levels, attention_bias: Tensor | None = None) -> Refined:
        """queries: contents and reference boxes. levels: the memory. attention_bias: (Q, Q).

        In evaluation, L is the number of layers without `training_layers`. An exported graph has predictions of the
        last of them only.
        """
        x, reference = queries
        memory = levels.tokens * (~levels.padding[..., None]).to(levels.tokens.dtype)
        values = weighting_function(self.num_bins, self.reg_scale, memory.device)
        count = len(self.layers) if self.training else self.predicting
        before: Tensor | None = None  # the layer's input, without gradient
        corners: Tensor | None = None
        states, boxes, distributions = [], [], []
        for i in range(count):
            if i == 0 or self.refined_positions:
                positions = self._positions(reference, x.dtype)
            scale, current = self.scales[i], memory
            if scale > 1:
                positions, current = (y.repeat_interleave(scale, dim=-1) for y in (positions, memory))
                if x.shape[-1] < positions.shape[-1]:
                    x = x.repeat_interleave(scale, dim=-1)
                before = x.detach()
            x = self.layers[i](x, positions, levels.on_maps(reference), current, levels.shapes, attention_bias)
            if i == 0:
                initial_boxes = refine(self.initial_box_head, x, reference, EPS)
                initial_logits = None if is_exporting() else self.label_heads[0](x)
                anchor = initial_boxes.detach()
            added = self.corner_heads[i].in_full_precision(x if before is None else x + before)  # type: ignore[operator]
            corners = added if corners is None else corners + added
            with autocast_off(x.device):
                predicted = boxes_from_distances(anchor, integral(corners, values.to(corners.dtype)), self.reg_scale)
            if not is_exporting() or i == count - 1:
                states.append(x)
                boxes.append(predicted)
                distributions.append(corners)
            reference, before = predicted.detach(), x.detach()
        all_corners, kept = torch.stack(distributions), slice(count - len(states), count)
        rows = zip(
            self.label_heads[kept], self.qualities[kept], states, highest_probabilities(all_corners), strict=True
        )
        logits = torch.stack([label_head(x) + quality(peaks) for label_head, quality, x, peaks in rows])
        return Refined(logits, torch.stack(boxes), all_corners, initial_boxes, initial_logits, states)

    def _positions(self, reference: Tensor, dtype: torch.dtype) -> Tensor:
        weight = self.positions.last.weight
        return F.hardtanh(self.positions(reference.to(weight.dtype)), -10, 10).to(dtype)
