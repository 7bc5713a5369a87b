"""The detection head of GTR (Feng et al. 2026): D-FINE's decoder and losses, with the following differences.

- No encoder: the levels are the features, fine to coarse, of a light neck such as `projector`.
- A selected cell's features are the content of its query, without projection and norm.
- In training there are groups of queries (Group DETR, Chen et al. 2023), each selected by its own prediction heads. A
  group is an image more in the batch: it has its own queries, denoising queries, matching and union.
- The positions of the queries come from the boxes of the selected cells in all layers, by an MLP of three layers.
- Denoising queries do not attend to object queries.
- SiLU in place of ReLU.
- Classes learn by the matchability-aware loss (DEIM, Huang et al. 2025) in place of the varifocal loss.
- The boxes of the selected cells learn from their own matching in place of the union.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from densevit.interfaces import Class, Outputs, Targets
from densevit.layers.norms import LayerNorm2d
from densevit.layers.positions import mask_on_grid
from densevit.losses.matching import MatchingCosts
from densevit.set_prediction.levels import Levels
from densevit.set_prediction.limits import MAX_LAYERS, check_counts
from densevit.set_prediction.prediction_layers import box_head, label_head
from densevit.set_prediction.query_selection import SelectedQueries
from densevit_heads.gtr.criterion import GroupedDfineCriterion
from densevit_heads.gtr.decoder import ConstantPositionDecoder
from densevit_heads.gtr.queries import IsolatedDenoising, UnprojectedSelection
from densevit_heads.parts.decoder_options import DecoderTransformer
from densevit_heads.parts.distributions.criterion import DfineLossWeights
from densevit_heads.parts.distributions.decoder import Refined
from densevit_heads.parts.distributions.head import BOX_NOISE, DistributionHead, check_distributions
from densevit_heads.parts.query_groups import regrouped


@dataclass(frozen=True)
class GtrTransformer(DecoderTransformer):
    """`DecoderTransformer` with the defaults of GTR."""

    decoder_layers: int = 4
    feedforward: int = 1024


class Gtr(DistributionHead):
    """D-FINE's decoder on a pyramid of features, trained with groups of queries (GTR, Feng et al. 2026).

    num_points: sampling points of each query and attention head on each level; or of each level, fine to coarse:
        (3, 6, 3) in GTR.
    num_bins, reg_scale: the options of `Dfine`.
    num_groups: groups of `num_queries` queries in training, at least 2; the first one predicts. With one group, the
        authors' code has other rules for the selected cells and the denoising queries.
    contrastive_denoising: number of positive denoising queries of an image and group in training, each with a negative
        one; 0 disables. Unlike in the authors' code, padding queries have no loss, and no query attends to them.
    costs, loss_weights: weights of the terms of the matching cost and of the loss.
    deterministic: the attention's backward pass on a GPU uses no atomic additions; on a CPU it never does.
    """

    criterion: GroupedDfineCriterion

    def __init__(
        self,
        channels: Sequence[int],
        strides: Sequence[int],
        classes: Sequence[Class],
        num_queries: int = 300,
        transformer: GtrTransformer = GtrTransformer(),
        num_points: int | tuple[int, ...] = 4,
        num_bins: int = 32,
        reg_scale: float = 4.0,
        num_groups: int = 3,
        contrastive_denoising: int = 100,
        costs: MatchingCosts = MatchingCosts(label=2.0),
        loss_weights: DfineLossWeights = DfineLossWeights(),
        deterministic: bool = False,
    ) -> None:
        super().__init__(channels, strides, classes, num_queries)
        num_points = (num_points,) * len(channels) if isinstance(num_points, int) else num_points
        check_distributions(num_points, num_bins, reg_scale)
        check_counts({"num_groups": num_groups}, 2, MAX_LAYERS)
        check_counts({"contrastive_denoising": contrastive_denoising}, 0)
        if len(num_points) != len(channels):
            raise ValueError(
                f"num_points has {len(num_points)} numbers; expected one for each of {len(channels)} features."
            )
        width, K = transformer.width, len(classes)
        self.projections = nn.ModuleList(
            nn.Identity() if inputs == width else nn.Sequential(nn.Conv2d(inputs, width, 1), LayerNorm2d(width))
            for inputs in channels
        )
        self.groups = nn.ModuleList(
            UnprojectedSelection(num_queries, width, label_head(width, K), box_head(width, activation=nn.SiLU))
            for _ in range(num_groups)
        )
        self.decoder = ConstantPositionDecoder(transformer, num_points, K, num_bins, reg_scale, deterministic)
        self.denoising = (
            IsolatedDenoising(width, K, contrastive_denoising, box_noise=BOX_NOISE) if contrastive_denoising else None
        )
        self.criterion = GroupedDfineCriterion(
            costs, loss_weights, "mal", denoising=self.denoising, num_bins=num_bins, reg_scale=reg_scale
        )

    def carried_state(self, state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], str] | None:
        """The state for this number of groups; see `densevit.weights.state_dict_loading.fit`."""
        return regrouped(state, len(self.groups))

    def forward(self, features: list[Tensor], padding_mask: Tensor, targets: list[Targets] | None = None) -> Outputs:
        """`logits` (B, Q, K) and `boxes` (B, Q, 4) of the last layer, of the first group.

        Also `layers` (`Dfine.forward`), of G * B images: the groups of a batch, one after another; in evaluation G
        is 1. Training adds `denoising`, of the same images.
        """
        return self.detect_in_groups(features, padding_mask, targets)[0]

    def detect_in_groups(
        self, features: list[Tensor], padding_mask: Tensor, targets: list[Targets] | None
    ) -> tuple[Outputs, Refined, Tensor]:
        """The outputs of `forward`, the results of the decoder, and the finest level (B, C, H, W)."""
        maps = [project(x) for project, x in zip(self.projections, features, strict=True)]
        paddings = [mask_on_grid(padding_mask, (x.shape[-2], x.shape[-1])) for x in maps]
        levels = Levels.of(maps, paddings)
        groups = [*self.groups] if self.training else [self.groups[0]]
        G = len(groups)
        by_group = [group(levels.tokens, levels) for group in groups]
        selected = SelectedQueries(*(torch.cat(parts) for parts in zip(*by_group, strict=True)))
        if G > 1:
            levels = Levels.of([x.repeat(G, 1, 1, 1) for x in maps], [x.repeat(G, 1, 1) for x in paddings])
        outputs, refined = self.detect(selected, levels, targets and targets * G)
        if G > 1:
            outputs |= {name: outputs[name][: len(maps[0])] for name in ("logits", "boxes")}
        return outputs, refined, maps[0]

    def loss_counts(self, targets: list[Targets]) -> dict[str, float]:
        return super().loss_counts(targets * (len(self.groups) if self.training else 1))
