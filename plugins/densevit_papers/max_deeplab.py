"""MaX-DeepLab: end-to-end panoptic segmentation with mask transformers (Wang et al. 2021)."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from densevit.interfaces import Class, Outputs, Targets
from densevit.layers.drop_path import DropPath
from densevit.set_prediction.levels import without_padding
from densevit.set_prediction.limits import MAX_LAYERS, check_classes, check_counts
from densevit.set_prediction.queries import resized_queries
from densevit_papers.max_deeplab_criterion import MaskLossWeights, PQCriterion
from densevit_papers.max_deeplab_layers import (
    EXPANSION,
    Activation,
    ConvNorm,
    MaskPredictor,
    NormedAttention,
    PixelBlock,
    ResizedFuse,
    SemanticDecoder,
    levels_of,
    padding_bias,
    padding_of,
    split_heads,
)
from densevit_papers.max_deeplab_predictions import (
    PanopticTransformer,
    SoftmaxMasks,
    check_threshold,
    pixelwise_panoptic,
)


class DualPathLayer(nn.Module):
    """Exchanges content between pixels and memory (section 3.3): memory attends to pixels and memory together
    (M2P and M2M share one softmax), and pixels attend to memory (P2M); a feed-forward network follows in the memory.

    P2P is the block of the pixel path before the layer. pixels: the channels of pixels. width: the channels of memory
    and values; keys have half of it.
    """

    def __init__(
        self,
        pixels: int,
        width: int,
        num_heads: int,
        feedforward: int,
        activation: Activation = nn.ReLU,
        drop_path: float = 0.0,
    ) -> None:
        super().__init__()
        self.num_heads, self.widths = num_heads, (width // 2, width // 2, width)
        self.activation = activation()
        self.reduce_memory = ConvNorm(width, width, activation=activation, memory=True)
        self.reduce_pixels = ConvNorm(pixels, width, activation=activation)
        self.memory_qkv = ConvNorm(width, sum(self.widths), memory=True)
        self.pixel_qkv = ConvNorm(width, sum(self.widths))
        for qkv in (self.memory_qkv, self.pixel_qkv):
            nn.init.trunc_normal_(qkv[0].weight, std=width**-0.5)  # type: ignore[arg-type]
        self.memory_attention = NormedAttention(width, num_heads, activation)
        self.pixel_attention = NormedAttention(width, num_heads, activation)
        self.expand_memory = ConvNorm(width, width, memory=True, norm_weight=0.0)
        self.expand_pixels = ConvNorm(width, pixels, norm_weight=0.0)
        self.ffn = nn.Sequential(
            ConvNorm(width, feedforward, activation=activation, memory=True),
            ConvNorm(feedforward, width, memory=True, norm_weight=0.0),
        )
        self.drop_path = DropPath(drop_path)

    def forward(self, pixels: Tensor, memory: Tensor, padding: Tensor) -> tuple[Tensor, Tensor]:
        """pixels: (B, C, H, W), not activated. memory: (B, D, Q). padding: (B, H, W). Returns both paths."""
        memory_parts = self.memory_qkv(self.reduce_memory(memory)).split(self.widths, dim=1)
        pixel_parts = self.pixel_qkv(self.reduce_pixels(self.activation(pixels))).flatten(2).split(self.widths, dim=1)
        query, key, value = (split_heads(x, self.num_heads) for x in memory_parts)
        pixel_query, pixel_key, pixel_value = (split_heads(x, self.num_heads) for x in pixel_parts)
        outside = nn.functional.pad(padding.flatten(1), (0, memory.shape[2]))  # memory is never padding
        both_keys, both_values = torch.cat([pixel_key, key], dim=3), torch.cat([pixel_value, value], dim=3)
        attended = self.memory_attention(query, both_keys, both_values, padding_bias(outside))
        memory = self.activation(memory + self.drop_path(self.expand_memory(attended)))
        memory = self.activation(memory + self.drop_path(self.ffn(memory)))
        attended = self.pixel_attention(pixel_query, key, value).unflatten(2, pixels.shape[2:])
        return pixels + self.drop_path(self.expand_pixels(attended)), memory


class MaXDeepLab(PanopticTransformer):
    """Panoptic segmentation by a dual-path transformer of pixels and memory (Wang et al. 2021).

    The loss has the form of panoptic quality (PQ). Neither boxes nor merging are needed.

    The coarsest feature passes `layers` residual blocks with axial attention, each followed by a `DualPathLayer`; then
    the pixel path is upsampled and fused with the finer features, one level and block for each stride. The defaults are
    MaX-DeepLab-S, except that in the paper the first three of the four layers are in the last stage of the backbone,
    whose pixels read and write the memory before the head; and its backbone has axial attention in the last two stages.
    Here any backbone computes its features without memory. The paper's backbone has an output stride of 16: for a
    ResNet, `dilation: true`. The finest feature should have a stride of 4, as masks have its resolution; a plain ViT
    gets such features from a neck (`simple_pyramid`).

    num_queries: size of the memory, the largest number of segments. width: channels of memory; keys have half of it.
    pixel_width: base of the finest level (`levels_of`). feedforward: the width of the memory's feed-forward
        networks. num_heads: the heads of all attention. drop_path: the stochastic depth of the blocks and layers of the
        coarsest level. losses: the loss weights.
    void_weighting: the argument of `PQCriterion`. threshold: least class probability of a segment in the panoptic map.
        The authors also leave out small segments, below 100 pixels for things and 1600 for stuff on COCO.
    """

    finest_stride = 4

    def __init__(
        self,
        channels: Sequence[int],
        strides: Sequence[int],
        classes: Sequence[Class],
        num_queries: int = 128,
        layers: int = 4,
        width: int = 256,
        pixel_width: int = 64,
        num_heads: int = 8,
        feedforward: int = 2048,
        drop_path: float = 0.2,
        losses: MaskLossWeights = MaskLossWeights(),
        void_weighting: bool = False,
        threshold: float = 0.7,
    ) -> None:
        super().__init__(channels, strides, classes)
        check_classes(classes, "panoptic")
        check_counts({"layers": layers}, 1, MAX_LAYERS)
        check_counts({"num_queries": num_queries, "feedforward": feedforward})
        check_widths(width, pixel_width, num_heads)
        check_threshold(threshold=threshold)
        self.threshold, activation = threshold, nn.ReLU
        self.path = levels_of(strides, pixel_width)
        coarsest, *finer = self.path
        inputs = channels[coarsest.feature]
        self.memory = nn.Parameter(torch.empty(width, num_queries))
        nn.init.trunc_normal_(self.memory)
        self.blocks, self.dual_path = nn.ModuleList(), nn.ModuleList()
        for _ in range(layers):
            self.blocks.append(PixelBlock(inputs, coarsest.base, coarsest.axial, num_heads, activation, drop_path))
            inputs = EXPANSION * coarsest.base
            self.dual_path.append(DualPathLayer(inputs, width, num_heads, feedforward, activation, drop_path))
        self.fuses, self.decoder = nn.ModuleList(), nn.ModuleList()
        for level in finer:
            outputs = EXPANSION * level.base
            self.fuses.append(ResizedFuse(inputs, channels[level.feature], outputs, activation))
            self.decoder.append(PixelBlock(outputs, level.base, level.axial, num_heads, activation))
            inputs = outputs
        self.activation = activation()
        self.class_memory = ConvNorm(width, width, activation=activation, memory=True)
        self.mask_memory = ConvNorm(width, width, activation=activation, memory=True)
        self.predictor = MaskPredictor(inputs, width, width // 2, len(classes), activation)
        semantic = SemanticDecoder(channels, self.path, width, len(classes), activation) if losses.semantic else None
        self.semantic_head = semantic
        self.criterion = PQCriterion(
            self.classes,
            num_queries,
            self.path[-1].stride,
            losses,
            void_weighting=void_weighting,
            check_counts=self.warn_of_objects,
        )

    def forward(self, features: list[Tensor], padding_mask: Tensor, targets: list[Targets] | None = None) -> Outputs:
        """The outputs of `PanopticTransformer`."""
        features = [without_padding(x, padding_mask) for x in features]
        x = features[self.path[0].feature]
        padding = padding_of(padding_mask, x)
        memory = self.memory.expand(x.shape[0], -1, -1)
        for block, layer in zip(self.blocks, self.dual_path, strict=True):
            x, memory = layer(block(x, padding), memory, padding)
        for level, fuse, block in zip(self.path[1:], self.fuses, self.decoder, strict=True):
            x = fuse(x, features[level.feature], level.ratio)
            x = block(x, padding_of(padding_mask, x))
        predictions = self.predictor(self.class_memory(memory), self.mask_memory(memory), self.activation(x))
        outputs: Outputs = {"logits": predictions.logits, "masks": predictions.masks, "layers": [predictions]}
        if self.training and self.semantic_head is not None:
            outputs["cells"] = self.semantic_head(features, padding_mask)
        return outputs

    def carried_over(self, name: str, tensor: Tensor) -> tuple[Tensor, str] | None:
        """Resizes the memory of another number of queries; see `densevit.weights.state_dict_loading.fit`."""
        return resized_queries(tensor, self.memory.shape[1], dim=1) if name == "memory" else None

    def panoptic(self, logits: Tensor, masks: SoftmaxMasks) -> Tensor:
        return pixelwise_panoptic(logits, masks, self.classes, self.threshold)


def check_widths(width: int, pixel_width: int, num_heads: int) -> None:
    """Raises ValueError unless keys and values are multiples of the heads."""
    check_counts({"width": width, "pixel_width": pixel_width, "num_heads": num_heads})
    if width % (2 * num_heads):
        raise ValueError(f"width is {width}; it must be a multiple of 2 * num_heads, {2 * num_heads}.")
    if 4 * pixel_width % num_heads:
        raise ValueError(f"pixel_width is {pixel_width}; 4 times it must be a multiple of num_heads, {num_heads}.")
