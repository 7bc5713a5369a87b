"""kMaX-DeepLab: k-means mask transformer (Yu et al. 2022)."""

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn

from densevit.interfaces import Class, Outputs, Targets
from densevit.layers.drop_path import DropPath
from densevit.layers.norms import LayerNorm2d
from densevit.layers.precision import at_least_fp32, autocast_off
from densevit.layers.upsampling import upsampled
from densevit.set_prediction.levels import without_padding
from densevit.set_prediction.limits import MAX_LAYERS, check_classes, check_counts
from densevit.set_prediction.queries import resized_queries
from densevit_papers.kmax_deeplab_losses import Sampling
from densevit_papers.max_deeplab import check_widths
from densevit_papers.max_deeplab_criterion import MaskLossWeights, PQCriterion
from densevit_papers.max_deeplab_layers import (
    EXPANSION,
    Activation,
    BatchNorm,
    ConvNorm,
    Level,
    MaskPredictor,
    NormedAttention,
    PixelBlock,
    ResizedFuse,
    SemanticDecoder,
    levels_of,
    padding_of,
    split_heads,
)
from densevit_papers.max_deeplab_masks import MaskOutputs
from densevit_papers.max_deeplab_predictions import (
    PanopticTransformer,
    SoftmaxMasks,
    check_threshold,
    maskwise_panoptic,
)

_EPS = 1e-6  # of the layer norms of features
_NUM_LEVELS = 3  # coarsest maps that queries attend to


class KMaXPixelDecoder(nn.Module):
    """Layer norm of each feature, residual blocks, and fusion with the next finer one, coarse to fine (section 3).

    layers: the number of blocks of the coarsest level, then of the finest levels in order. align_corners: the argument
    of `upsampled`.
    """

    def __init__(
        self,
        channels: Sequence[int],
        levels: Sequence[Level],
        layers: tuple[int, int, int, int],
        num_heads: int,
        activation: Activation,
        align_corners: bool = False,
    ) -> None:
        super().__init__()
        self.levels = list(levels)
        self.norms = nn.ModuleList(LayerNorm2d(channels[level.feature], eps=_EPS) for level in levels)
        self.fuses, self.stages = nn.ModuleList(), nn.ModuleList()
        counts = [layers[0], *layers[4 - len(levels) + 1 :]]
        self.channels: list[int] = []
        for level, count in zip(levels, counts, strict=True):
            inputs, outputs = channels[level.feature], EXPANSION * level.base
            if self.channels:
                self.fuses.append(ResizedFuse(self.channels[-1], inputs, level.base, activation, align_corners))
                inputs = level.base
            stage = nn.ModuleList()
            for _ in range(count):
                stage.append(PixelBlock(inputs, level.base, level.axial, num_heads, activation))
                inputs = outputs
            self.stages.append(stage)
            self.channels.append(outputs)

    def forward(self, features: Sequence[Tensor], padding_mask: Tensor) -> list[Tensor]:
        """Returns the maps of the levels, coarse to fine, not activated."""
        maps: list[Tensor] = []
        for i, (level, norm, stage) in enumerate(zip(self.levels, self.norms, self.stages, strict=True)):
            x = without_padding(norm(features[level.feature]), padding_mask)
            if i:
                x = self.fuses[i - 1](maps[-1], x, level.ratio)
            padding = padding_of(padding_mask, x)
            for block in cast(nn.ModuleList, stage):
                x = block(x, padding)
            maps.append(x)
        return maps


class KMeansLayer(nn.Module):
    """A k-means step in place of cross-attention, self-attention of queries, and a feed-forward network (section 3).

    Each pixel is assigned to the query of its largest mask logit: an argmax over queries (cluster-wise) in place of a
    softmax over pixels. A query is updated by the sum of the values of its pixels. A separate loss of mask logits and
    classes trains the assignment.
    """

    def __init__(
        self,
        pixels: int,
        width: int,
        num_heads: int,
        feedforward: int,
        num_classes: int,
        activation: Activation,
        drop_path: float = 0.0,
    ) -> None:
        super().__init__()
        self.num_heads, self.widths = num_heads, (width // 2, width // 2, width)
        self.activation = activation()
        self.reduce_queries = ConvNorm(width, width, activation=activation, memory=True)
        self.reduce_pixels = ConvNorm(pixels, width, activation=activation)
        self.qkv = ConvNorm(width, sum(self.widths), memory=True)
        self.pixel_value = ConvNorm(width, width)
        for layer in (self.qkv, self.pixel_value):
            nn.init.trunc_normal_(layer[0].weight, std=width**-0.5)  # type: ignore[arg-type]
        self.predictor = MaskPredictor(width, width, width // 2, num_classes, activation)
        self.norm_update = BatchNorm(width)
        self.expand_update = ConvNorm(width, width, memory=True, norm_weight=0.0)
        self.self_attention = NormedAttention(width, num_heads, activation)
        self.expand_attended = ConvNorm(width, width, memory=True, norm_weight=0.0)
        self.ffn = nn.Sequential(
            ConvNorm(width, feedforward, activation=activation, memory=True),
            ConvNorm(feedforward, width, memory=True, norm_weight=0.0),
        )
        self.drop_path = DropPath(drop_path)

    def forward(self, pixels: Tensor, queries: Tensor, padding: Tensor) -> tuple[Tensor, MaskOutputs]:
        """pixels: (B, C, H, W), not activated. queries: (B, D, Q). padding: (B, H, W).

        Returns the queries and the predictions of `MaskPredictor` before the update.
        """
        reduced = self.reduce_pixels(self.activation(pixels))
        centres = self.reduce_queries(queries)
        predicted = self.predictor(centres, centres, reduced)
        update = kmeans_update(predicted.masks, self.pixel_value(reduced), padding)
        update = self.expand_update(self.norm_update(update))
        q, k, v = (split_heads(x, self.num_heads) for x in self.qkv(centres).split(self.widths, dim=1))
        attended = self.expand_attended(self.self_attention(q, k, v))
        queries = self.activation(queries + self.drop_path(update) + self.drop_path(attended))
        queries = self.activation(queries + self.drop_path(self.ffn(queries)))
        return queries, predicted


def kmeans_update(masks: Tensor, values: Tensor, padding: Tensor) -> Tensor:
    """The sum of the values of the pixels that are assigned to each query: (B, C, Q), in fp32.

    masks: logits (B, Q, H, W), without gradient. values: (B, C, H, W). padding: (B, H, W), assigned to no query.
    """
    with autocast_off(values.device):
        values = at_least_fp32(values).flatten(2)  # (B, C, H * W)
        nearest = masks.detach().flatten(2).argmax(1, keepdim=True)  # (B, 1, H * W)
        inside = (~padding).flatten(1)[:, None].to(values.dtype)
        assignment = values.new_zeros(masks.shape[0], masks.shape[1], values.shape[2]).scatter(1, nearest, inside)
        return values @ assignment.transpose(1, 2)


class KMaXDeepLab(PanopticTransformer):
    """Panoptic segmentation by queries that are the cluster centres of pixels, updated by k-means (Yu et al. 2022).

    A pixel decoder with axial attention, `KMeansLayer` on its three coarsest maps, and masks and classes of the final
    queries. All layers have the losses of the last layer, with its matching (deep supervision). The defaults are from
    the authors' PyTorch code for COCO. The finest feature should have a stride of 4, as masks have its resolution; a
    plain ViT gets such features from a neck (`simple_pyramid`). With fewer than three levels, the finest takes the
    layers of the missing levels. Axial positions reach over 255 cells; cells farther away count as 254 cells away.

    num_queries: the number of cluster centres. layers: the number of `KMeansLayer`s on each map, coarse to fine.
    pixel_layers: blocks of the pixel decoder, coarse to fine; see `KMaXPixelDecoder` for fewer than four levels.
    width: channels of queries; keys have half of it. pixel_width: base of the finest level (`levels_of`).
    feedforward: the width of the queries' feed-forward networks. num_heads: the heads of all attention. drop_path: the
        stochastic depth of the layers. losses: the loss weights.
    sampling: the pixels drawn for the instance and semantic loss.
    void_weighting: the argument of `PQCriterion`.
    thing_threshold, stuff_threshold: least class probabilities of segments in the panoptic map.
    align_corners: cells of maps are at their first pixels in all resizing and in the targets, as in the authors' code
        for images of 32 n + 1 pixels a side; otherwise at their centres.
    semantic_void: the semantic loss has a class of void, which no pixel has as its label, as in the authors' code.
    """

    finest_stride = 4

    def __init__(
        self,
        channels: Sequence[int],
        strides: Sequence[int],
        classes: Sequence[Class],
        num_queries: int = 128,
        layers: tuple[int, int, int] = (2, 2, 2),
        pixel_layers: tuple[int, int, int, int] = (1, 5, 1, 1),
        width: int = 256,
        pixel_width: int = 64,
        num_heads: int = 8,
        feedforward: int = 2048,
        drop_path: float = 0.2,
        losses: MaskLossWeights = MaskLossWeights(),
        sampling: Sampling = Sampling(),
        void_weighting: bool = True,
        thing_threshold: float = 0.7,
        stuff_threshold: float = 0.5,
        align_corners: bool = False,
        semantic_void: bool = False,
    ) -> None:
        super().__init__(channels, strides, classes)
        check_classes(classes, "panoptic")
        check_counts({"layers": min(layers)}, 0, MAX_LAYERS)
        check_counts({"pixel_layers": min(pixel_layers)}, 1, MAX_LAYERS)
        check_counts({"num_queries": num_queries, "feedforward": feedforward})
        check_widths(width, pixel_width, num_heads)
        check_threshold(thing_threshold=thing_threshold, stuff_threshold=stuff_threshold)
        self.thresholds, activation, K = (thing_threshold, stuff_threshold), nn.GELU, len(classes)
        levels = levels_of(strides, pixel_width)
        self.pixel_decoder = KMaXPixelDecoder(channels, levels, pixel_layers, num_heads, activation, align_corners)
        self.queries = nn.Parameter(torch.empty(width, num_queries))
        nn.init.trunc_normal_(self.queries)
        self.attended = [min(i, len(levels) - 1) for i in range(_NUM_LEVELS) for _ in range(layers[i])]
        maps = self.pixel_decoder.channels
        self.layers = nn.ModuleList(
            KMeansLayer(maps[i], width, num_heads, feedforward, K, activation, drop_path) for i in self.attended
        )
        self.class_queries = ConvNorm(width, width, activation=activation, memory=True)
        self.mask_queries = ConvNorm(width, width, activation=activation, memory=True)
        self.predictor = MaskPredictor(maps[-1], width, width // 2, K, activation)
        self.align_corners, self.semantic_head = align_corners, None
        if losses.semantic:
            rows = K + int(semantic_void)
            self.semantic_head = SemanticDecoder(channels, levels, width, rows, activation, align_corners)
        stride = levels[-1].stride
        options = (losses, sampling, void_weighting, align_corners, self.warn_of_objects)
        self.criterion = PQCriterion(self.classes, num_queries, stride, *options)

    def forward(self, features: list[Tensor], padding_mask: Tensor, targets: list[Targets] | None = None) -> Outputs:
        """The outputs of `PanopticTransformer`; in training `layers` has all layers, with masks and features resized to
        the last one's."""
        features = [without_padding(x, padding_mask) for x in features]
        maps = self.pixel_decoder(features, padding_mask)
        queries = self.queries.expand(maps[0].shape[0], -1, -1)
        predictions = []
        for i, layer in zip(self.attended, self.layers, strict=True):
            queries, predicted = layer(maps[i], queries, padding_of(padding_mask, maps[i]))
            predictions.append(predicted)
        last = self.predictor(self.class_queries(queries), self.mask_queries(queries), maps[-1])
        outputs: Outputs = {"logits": last.logits, "masks": last.masks, "layers": [last]}
        if self.training:
            (*_, h, w), finest = last.masks.shape, self.pixel_decoder.levels[-1].stride
            ratios = [self.pixel_decoder.levels[i].stride // finest for i in self.attended]
            resized = [
                MaskOutputs(logits, *(upsampled(x, ratio, (h, w), self.align_corners) for x in maps_of_layer))
                for (logits, *maps_of_layer), ratio in zip(predictions, ratios, strict=True)
            ]
            outputs["layers"] = [*resized, last]
            if self.semantic_head is not None:
                outputs["cells"] = self.semantic_head(features, padding_mask)
        return outputs

    def carried_over(self, name: str, tensor: Tensor) -> tuple[Tensor, str] | None:
        """Resizes the cluster centres of another number of queries; see `densevit.weights.state_dict_loading.fit`."""
        return resized_queries(tensor, self.queries.shape[1], dim=1) if name == "queries" else None

    def panoptic(self, logits: Tensor, masks: SoftmaxMasks) -> Tensor:
        return maskwise_panoptic(logits, masks, self.classes, *self.thresholds)
