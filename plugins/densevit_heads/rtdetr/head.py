"""The RT-DETR head (Zhao et al. 2024) and its version 2 (Lv et al. 2024).

The matching minimises 2 * focal cost + 5 * L1 - 2 * GIoU. The loss of a decoder layer, of the selected cells and of
denoising queries is the varifocal loss + 5 * L1 + 2 * (1 - GIoU), as in the authors' code.
"""

import copy
from collections.abc import Sequence
from functools import partial
from typing import cast

import torch
from torch import Tensor, nn

from densevit.interfaces import Class, Outputs, Targets
from densevit.layers.deformable_attention import Sampling
from densevit.layers.mlp import Mlp
from densevit.losses.matching import MatchingCosts
from densevit.losses.set_losses import LossWeights
from densevit.set_prediction.box_refinement import look_forward_twice
from densevit.set_prediction.criterion import SetCriterion
from densevit.set_prediction.deformable_transformer import DeformableDecoderLayer
from densevit.set_prediction.denoising import ContrastiveDenoising
from densevit.set_prediction.head import SetPredictionHead
from densevit.set_prediction.levels import Levels
from densevit.set_prediction.limits import MAX_LAYERS, check_counts
from densevit.set_prediction.prediction_layers import EPS, box_head, label_head
from densevit.set_prediction.queries import BoxQueries
from densevit.set_prediction.query_selection import UncertaintyMinimalSelection
from densevit.set_prediction.transformer import Transformer
from densevit_heads.parts.convolutions import ConvNorm, CspRepLayer
from densevit_heads.parts.denoised_queries import with_denoising
from densevit_heads.parts.hybrid_encoder import HybridEncoder, HybridEncoderOptions

BOX_NOISE = 1.0  # of denoising queries, in half box sizes; a negative query's is 1 to 2


class RtDetr(SetPredictionHead):
    """A real-time DETR: hybrid encoder, uncertainty-minimal query selection, deformable decoder (Zhao et al. 2024).

    encoder, transformer: widths of the encoder; width of the decoder, and layers, heads and dropout of both.
        `transformer.encoder_layers`: layers of the attention on the coarsest map (AIFI).
    num_levels, min_stride: number of feature levels, and the finest stride; see `HybridEncoder`.
    num_points: sampling points of each query and attention head, per level: one number, or one for each level (v2).
    sampling: "grid_sample", bilinear; "discrete", the value of one cell, for devices without this operator (v2): the
        offsets of sampling points are then frozen, so train with "grid_sample" first.
    contrastive_denoising: number of positive denoising queries of an image in training, each with a negative one
        (DINO, section 3.3); 0 disables. Unlike in the authors' code, a negative box with swapped corners is mirrored
        instead of reduced to size 0, and padding queries have no loss.
    costs, loss_weights: weights of the terms of the matching cost and of the loss.
    deterministic: the attention's backward pass on a GPU uses no atomic additions; on a CPU it never does.
    """

    def __init__(
        self,
        channels: Sequence[int],
        strides: Sequence[int],
        classes: Sequence[Class],
        num_queries: int = 300,
        encoder: HybridEncoderOptions = HybridEncoderOptions(),
        transformer: Transformer = Transformer(encoder_layers=1, feedforward=1024, dropout=0.0),
        num_levels: int = 3,
        min_stride: int = 8,
        num_points: int | tuple[int, ...] = 4,
        sampling: Sampling = "grid_sample",
        contrastive_denoising: int = 100,
        costs: MatchingCosts = MatchingCosts(label=2.0),
        loss_weights: LossWeights = LossWeights(),
        deterministic: bool = False,
    ) -> None:
        super().__init__(channels, strides, classes, num_queries)
        self.finest_stride = min_stride
        check_counts({"num_levels": num_levels}, 1, MAX_LAYERS)
        points = (num_points,) * num_levels if isinstance(num_points, int) else tuple(num_points)
        check_counts({f"num_points[{level}]": count for level, count in enumerate(points)}, 1, MAX_LAYERS)
        if len(points) != num_levels:
            raise ValueError(
                f"num_points has {len(points)} numbers; expected one, or one for each of {num_levels} levels."
            )
        check_counts({"min_stride": min_stride})
        check_counts({"contrastive_denoising": contrastive_denoising}, 0)
        width, K = transformer.width, len(classes)
        self.encoder = HybridEncoder(
            channels,
            strides,
            encoder,
            transformer,
            num_levels,
            min_stride,
            lateral=lambda width: ConvNorm(width, width, 1),
            fuse=lambda width: CspRepLayer(2 * width, width, encoder.expansion),
            downsample=lambda width: ConvNorm(width, width, 3, stride=2),
        )
        project = partial(ConvNorm, encoder.width, width, 1, activation=None)
        self.projections = nn.ModuleList(project() for _ in range(num_levels))
        layer = (transformer, num_levels, points, deterministic, sampling)
        self.decoder = nn.ModuleList(DeformableDecoderLayer(*layer) for _ in range(transformer.decoder_layers))
        self.query_positions = Mlp(4, 2 * width, width, 2)
        labels, boxes = label_head(width, K), box_head(width)
        self.label_heads = nn.ModuleList(copy.deepcopy(labels) for _ in self.decoder)
        self.box_heads = nn.ModuleList(copy.deepcopy(boxes) for _ in self.decoder)
        self.queries = UncertaintyMinimalSelection(num_queries, width, labels, boxes)
        self.denoising = (
            ContrastiveDenoising(width, K, contrastive_denoising, box_noise=BOX_NOISE)
            if contrastive_denoising
            else None
        )
        self.criterion = SetCriterion(
            costs,
            loss_weights,
            "varifocal_matched",
            denoising=self.denoising,
            class_proposals=True,
        )
        for linear in (*self.query_positions, *self.projections.modules()):
            if isinstance(linear, nn.Linear | nn.Conv2d):
                nn.init.xavier_uniform_(linear.weight)

    def forward(self, features: list[Tensor], padding_mask: Tensor, targets: list[Targets] | None = None) -> Outputs:
        """`logits` (B, Q, K) and `boxes` (B, Q, 4) of the last layer, and of all `layers`, (L, B, Q, ...).

        Also `proposals`, logits (B, Q, K) and boxes (B, Q, 4) of the selected cells. Training adds `denoising` for the
        loss and `attended` (`EncodedMaps`).
        """
        maps, paddings, attended = self.encoder(features, padding_mask)
        levels = Levels.of([project(x) for project, x in zip(self.projections, maps, strict=True)], paddings)
        selected = self.queries(levels.tokens, levels)
        outputs: Outputs = {"proposals": (selected.logits, selected.boxes)}
        if self.training:
            outputs["attended"] = attended
        queries = BoxQueries(selected.contents, selected.boxes.detach())
        queries, denoising = with_denoising(self.denoising, queries, targets if self.training else None, outputs)
        logits, boxes = self._decode(queries, levels, None if denoising is None else denoising.attention_bias)
        if denoising is not None:
            outputs["denoising"], logits, boxes = denoising.split(logits, boxes)
        return {**outputs, "logits": logits[-1], "boxes": boxes[-1], "layers": (logits, boxes)}

    def _decode(self, queries: BoxQueries, levels: Levels, attention_bias: Tensor | None) -> tuple[Tensor, Tensor]:
        """Returns logits (L, B, Q, K) and boxes (L, B, Q, 4)."""
        x, reference = queries
        logits, boxes, undetached = [], [], reference
        for layer, labels, offsets in zip(self.decoder, self.label_heads, self.box_heads, strict=True):
            positions = self.query_positions.in_full_precision(reference).to(x.dtype)
            on_maps = levels.on_maps(reference)
            x = layer(x, positions, on_maps, levels.tokens, levels.shapes, levels.padding, attention_bias)
            logits.append(labels(x))
            predicted, undetached = look_forward_twice(cast(Mlp, offsets), x, reference, undetached, EPS)
            boxes.append(predicted)
            reference = undetached.detach()
        return torch.stack(logits), torch.stack(boxes)
