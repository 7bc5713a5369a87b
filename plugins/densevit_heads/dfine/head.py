"""The D-FINE head (Peng et al. 2024): RT-DETR whose decoder refines distributions of box edges.

Classes learn by the varifocal loss from each layer's matching, with costs 2 * focal cost + 5 * L1 - 2 * GIoU.
Boxes learn from the union of all matchings: 5 * L1 + 2 * (1 - GIoU) + 0.15 * the fine-grained localization loss, and
layers before the last 1.5 * the distillation of the last layer's distributions, as in the authors' code.
"""

from collections.abc import Sequence
from typing import Literal

from torch import Tensor, nn

from densevit.interfaces import Class, Outputs, Targets
from densevit.losses.matching import MatchingCosts
from densevit.set_prediction.denoising import ContrastiveDenoising
from densevit.set_prediction.levels import Levels
from densevit.set_prediction.limits import MAX_LAYERS, check_counts
from densevit.set_prediction.prediction_layers import box_head, label_head
from densevit.set_prediction.query_selection import UncertaintyMinimalSelection
from densevit.set_prediction.transformer import Transformer
from densevit_heads.dfine.encoder_blocks import RepNcspElan, decoupled_downsampling
from densevit_heads.parts.convolutions import ConvNorm
from densevit_heads.parts.distributions.criterion import DfineCriterion, DfineLossWeights
from densevit_heads.parts.distributions.decoder import DistributionDecoder
from densevit_heads.parts.distributions.head import BOX_NOISE, DistributionHead, check_distributions
from densevit_heads.parts.hybrid_encoder import HybridEncoder, HybridEncoderOptions


class Dfine(DistributionHead):
    """A real-time DETR that refines the distribution of each edge of a box from layer to layer (Peng et al. 2024).

    encoder, transformer: widths of the encoder; width of the decoder, and layers, heads and dropout of both.
        `transformer.encoder_layers`: layers of the attention on the coarsest map (AIFI).
    fusion_blocks: RepVGG blocks of each CSP layer of a fusion block; its branches have `encoder.expansion` times half
        of `encoder.width` channels.
    num_points: sampling points of each query and attention head on each level, fine to coarse: the number of levels.
    min_stride: the finest stride; see `HybridEncoder`.
    training_layers: further decoder layers, in training only, which teach the other layers.
    layer_scale: width and feed-forward network of these layers, relative to `transformer`.
    num_bins: N, even; an edge has the distances W(0) ... W(N). reg_scale: 1 / c of W(n) (equation 3); larger values
        give finer steps.
    activation: the decoder's activation; "silu" in DEIM (Huang et al. 2025) and RT-DETRv4 (Liao et al. 2025).
    classification: the loss of classes; "mal", the matchability-aware loss, in DEIM and RT-DETRv4.
    contrastive_denoising: number of positive denoising queries of an image in training, each with a negative one
        (DINO, section 3.3); 0 disables. Unlike in the authors' code, padding queries have no loss.
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
        fusion_blocks: int = 3,
        num_points: tuple[int, ...] = (3, 6, 3),
        min_stride: int = 8,
        training_layers: int = 0,
        layer_scale: int = 1,
        num_bins: int = 32,
        reg_scale: float = 4.0,
        activation: Literal["relu", "silu"] = "relu",
        classification: Literal["varifocal", "mal"] = "varifocal",
        contrastive_denoising: int = 100,
        costs: MatchingCosts = MatchingCosts(label=2.0),
        loss_weights: DfineLossWeights = DfineLossWeights(),
        deterministic: bool = False,
    ) -> None:
        super().__init__(channels, strides, classes, num_queries)
        self.finest_stride = min_stride
        check_distributions(num_points, num_bins, reg_scale)
        check_counts({"fusion_blocks": fusion_blocks, "layer_scale": layer_scale}, 1, MAX_LAYERS)
        check_counts({"training_layers": training_layers}, 0, MAX_LAYERS)
        check_counts({"min_stride": min_stride})
        check_counts({"contrastive_denoising": contrastive_denoising}, 0)
        width, K = transformer.width, len(classes)
        branch = round(encoder.expansion * encoder.width // 2)
        if branch < 1:
            raise ValueError(
                f"encoder.expansion is {encoder.expansion:g}; expected at least one of {encoder.width // 2} channels."
            )
        self.encoder = HybridEncoder(
            channels,
            strides,
            encoder,
            transformer,
            len(num_points),
            min_stride,
            lateral=lambda width: _pointwise(width, width),
            fuse=lambda width: RepNcspElan(2 * width, width, branch, fusion_blocks),
            downsample=decoupled_downsampling,
        )
        self.projections = nn.ModuleList(
            nn.Identity() if encoder.width == width else _pointwise(encoder.width, width) for _ in num_points
        )
        act = {"relu": nn.ReLU, "silu": nn.SiLU}[activation]
        boxes = box_head(width, activation=act)
        self.queries = UncertaintyMinimalSelection(num_queries, width, label_head(width, K), boxes)
        self.decoder = DistributionDecoder(
            transformer, num_points, K, training_layers, layer_scale, num_bins, reg_scale, deterministic, act
        )
        self.denoising = (
            ContrastiveDenoising(width, K, contrastive_denoising, box_noise=BOX_NOISE)
            if contrastive_denoising
            else None
        )
        self.criterion = DfineCriterion(
            costs,
            loss_weights,
            "mal" if classification == "mal" else "varifocal_matched",
            denoising=self.denoising,
            num_bins=num_bins,
            reg_scale=reg_scale,
        )

    def forward(self, features: list[Tensor], padding_mask: Tensor, targets: list[Targets] | None = None) -> Outputs:
        """`logits` (B, Q, K) and `boxes` (B, Q, 4) of the layer that predicts.

        Also `layers`, of all decoder layers, the initial boxes and the selected cells, with the distributions, but not
        in an exported graph. Training adds `denoising` for the loss and `attended` (`EncodedMaps`).
        """
        maps, paddings, attended = self.encoder(features, padding_mask)
        levels = Levels.of([project(x) for project, x in zip(self.projections, maps, strict=True)], paddings)
        outputs, _ = self.detect(self.queries(levels.tokens, levels), levels, targets)
        return outputs | ({"attended": attended} if self.training else {})


def _pointwise(inputs: int, outputs: int) -> ConvNorm:
    return ConvNorm(inputs, outputs, 1, activation=None)
