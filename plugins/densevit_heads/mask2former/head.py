"""The Mask2Former heads: pixel decoder, masked-attention decoder, criterion and predictions.

The loss of a decoder layer is the paper's (section 4.1): 2 * cross-entropy of classes, plus 5 * binary cross-entropy
and 5 * dice of the matched masks at points. `Mask2Former` is for panoptic, `Mask2FormerInstance` for instance and
`Mask2FormerSemantic` for semantic segmentation.
"""

from collections.abc import Sequence

from torch import Tensor, nn

from densevit.interfaces import Class, Outputs, Targets
from densevit.set_prediction.limits import check_weights
from densevit.set_prediction.mask_classification import (
    NUM_POINTS,
    InstanceMaskClassification,
    MaskClassification,
    PanopticMaskClassification,
    SemanticMaskClassification,
)
from densevit.set_prediction.queries import mask_logits
from densevit_heads.mask2former.pixel_decoder import MaskTransformer, PixelDecoder, PixelDecoderOptions
from densevit_heads.mask2former.transformer import MaskedDecoder

NUM_QUERIES = 100


class MaskedAttention(MaskClassification):
    """Base of the three heads: a pixel decoder and a decoder with masked attention.

    The defaults are the paper's. The finest feature should have a stride of 4, as masks have its resolution; a plain
    ViT gets such features from a neck (`simple_pyramid`).

    num_points: the number of points at which masks are compared, in matching and in losses.
    semantic_loss: weight of an auxiliary loss in training that classifies the cells of the finest level, as in
        MaX-DeepLab (Wang et al. 2021); 0 disables.
    """

    finest_stride = 4

    def __init__(
        self,
        channels: Sequence[int],
        strides: Sequence[int],
        classes: Sequence[Class],
        num_queries: int = NUM_QUERIES,
        transformer: MaskTransformer = MaskTransformer(),
        pixel_decoder: PixelDecoderOptions = PixelDecoderOptions(),
        num_points: int = NUM_POINTS,
        semantic_loss: float = 0.0,
    ) -> None:
        check_weights({"semantic_loss": semantic_loss})
        super().__init__(channels, strides, classes, num_queries, min(strides), num_points, semantic_loss)
        self.pixel_decoder = PixelDecoder(channels, strides, transformer, pixel_decoder)
        self.decoder = MaskedDecoder(num_queries, len(classes), transformer)
        self.semantic_head = nn.Conv2d(transformer.width, len(classes), 1) if semantic_loss else None

    def forward(self, features: list[Tensor], padding_mask: Tensor, targets: list[Targets] | None = None) -> Outputs:
        """The outputs of `MaskClassification`, of the decoder's layers; with `semantic_loss` in training also `cells`
        (B, K, h', w'), class logits of the finest level.
        """
        pyramid = self.pixel_decoder(features, padding_mask)
        queries = self.decoder(pyramid)
        outputs: Outputs = {"logits": queries.logits[-1], "layers": tuple(queries), "pixels": pyramid.mask_features}
        if self.training and self.semantic_head is not None:
            outputs["cells"] = self.semantic_head(pyramid.levels[-1])
        if not self.training:
            outputs["masks"] = mask_logits(queries.embeddings[-1], pyramid.mask_features)
        return outputs


class Mask2Former(PanopticMaskClassification, MaskedAttention):
    """Masked-attention mask transformer (Cheng et al. 2022) for panoptic segmentation.

    threshold: least class probability of a segment in the panoptic map.
    max_predictions: the most instances predicted in an image; None: `num_queries`, at least 100.
    The other options: see `MaskedAttention`.
    """

    def __init__(
        self,
        channels: Sequence[int],
        strides: Sequence[int],
        classes: Sequence[Class],
        num_queries: int = NUM_QUERIES,
        transformer: MaskTransformer = MaskTransformer(),
        pixel_decoder: PixelDecoderOptions = PixelDecoderOptions(),
        num_points: int = NUM_POINTS,
        semantic_loss: float = 0.0,
        threshold: float = 0.8,
        max_predictions: int | None = None,
    ) -> None:
        MaskedAttention.__init__(
            self, channels, strides, classes, num_queries, transformer, pixel_decoder, num_points, semantic_loss
        )
        self.set_threshold(threshold)
        self.set_max_predictions(max_predictions)


class Mask2FormerInstance(InstanceMaskClassification, MaskedAttention):
    """Mask2Former for instance segmentation: evaluated by box AP unless `evaluation: {name: coco_masks}`.

    max_predictions: the most instances predicted in an image; None: `num_queries`, at least 100.
    The other options: see `MaskedAttention`.
    """

    def __init__(
        self,
        channels: Sequence[int],
        strides: Sequence[int],
        classes: Sequence[Class],
        num_queries: int = NUM_QUERIES,
        transformer: MaskTransformer = MaskTransformer(),
        pixel_decoder: PixelDecoderOptions = PixelDecoderOptions(),
        num_points: int = NUM_POINTS,
        semantic_loss: float = 0.0,
        max_predictions: int | None = None,
    ) -> None:
        MaskedAttention.__init__(
            self, channels, strides, classes, num_queries, transformer, pixel_decoder, num_points, semantic_loss
        )
        self.set_max_predictions(max_predictions)


class Mask2FormerSemantic(SemanticMaskClassification, MaskedAttention):
    """Mask2Former for semantic segmentation, which makes maps for test-time augmentation."""
