"""The Mask2Former heads: pixel decoder, masked-attention decoder, criterion and predictions.

The loss of a decoder layer is the paper's (section 4.1): 2 * cross-entropy of classes, plus 5 * binary cross-entropy
and 5 * dice of the matched masks at points. `Mask2Former` is for panoptic segmentation, `Mask2FormerInstance` and
`Mask2FormerSemantic` for the other two.
"""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from densevit.interfaces import Class, Dataset, DenseHead, Head, LossContext, Losses, Outputs, Predictions, Targets
from densevit.set_prediction.limits import check_classes, check_counts, check_weights
from densevit_heads.mask2former import prediction
from densevit_heads.mask2former.criterion import MaskCriterion
from densevit_heads.mask2former.options import MaskTransformer, PixelDecoderOptions
from densevit_heads.mask2former.pixel_decoder import PixelDecoder
from densevit_heads.mask2former.prediction import MaskLogits
from densevit_heads.mask2former.renamed_options import renamed
from densevit_heads.mask2former.segments import NEEDS, Task
from densevit_heads.mask2former.transformer import MaskedDecoder, MaskQueries, mask_logits

NUM_QUERIES = 100
NUM_POINTS = 12544


class MaskClassification(Head):
    """What the heads share (Cheng et al. 2022): a class and a mask of each query. Subclasses differ in targets and
    predictions.

    The defaults are the paper's. The finest feature should have a stride of 4, as masks have its resolution; a plain
    ViT gets such features from a neck (`simple_pyramid`).

    num_points: at which masks are compared, in matching and in losses.
    semantic_loss: weight of an auxiliary loss in training, for which the cells of the finest level are classified, as
        in MaX-DeepLab (Wang et al. 2021); 0 disables.
    """

    segments: ClassVar[Task]
    coded_masks = True

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
        super().__init__(channels, strides, classes)
        check_counts({"num_queries": num_queries, "num_points": num_points})
        check_weights({"semantic_loss": semantic_loss})
        check_classes(classes)
        self.pixel_decoder = PixelDecoder(channels, strides, transformer, pixel_decoder)
        self.decoder = MaskedDecoder(num_queries, len(classes), transformer)
        stride = self.pixel_decoder.stride
        self.criterion = MaskCriterion(
            self.segments, len(classes), num_queries, num_points, stride, semantic_weight=semantic_loss
        )
        self.semantic_head = nn.Conv2d(transformer.width, len(classes), 1) if semantic_loss else None

    def forward(self, features: list[Tensor], padding_mask: Tensor, targets: list[Targets] | None = None) -> Outputs:
        """`logits` (B, Q, K+1) of the last layer, whose last class is "no object"; in evaluation also `masks`, its mask
        logits (B, Q, h, w) at the stride of the finest feature.

        For the loss: `layers`, the `MaskQueries` of all layers, and `pixels` (B, C, h, w), the per-pixel embeddings;
        with `semantic_loss` in training also `cells` (B, K, h', w'), class logits of the finest level.
        """
        pyramid = self.pixel_decoder(features, padding_mask)
        found = self.decoder(pyramid)
        outputs: Outputs = {"logits": found.logits[-1], "layers": tuple(found), "pixels": pyramid.mask_features}
        if self.training and self.semantic_head is not None:
            outputs["cells"] = self.semantic_head(pyramid.levels[-1])
        if not self.training:
            outputs["masks"] = mask_logits(found.embeddings[-1], pyramid.mask_features)
        return outputs

    def check(self, dataset: Dataset) -> None:
        """Warns if training images have more objects than queries."""
        super().check(dataset)
        self.criterion.check(dataset)

    def loss_counts(self, targets: list[Targets]) -> dict[str, float]:
        return self.criterion.loss_counts(targets)

    def loss(self, outputs: Outputs, targets: list[Targets], context: LossContext) -> Losses:
        """Returns `label`, `mask` and `dice` of the last layer, `auxiliary`, the sum of the others, and in training
        `semantic` unless its weight is 0.

        Random points in training, the same ones at each call in evaluation.
        """
        pixels = outputs["pixels"]
        generator = None if self.training else torch.Generator(pixels.device).manual_seed(0)
        return self.criterion.losses(
            MaskQueries(*outputs["layers"]), pixels, targets, context, generator, outputs.get("cells")
        )

    @torch.no_grad()
    def predict(self, outputs: Outputs, targets: list[Targets]) -> list[Predictions]:
        return [
            self.predictions(logits, MaskLogits(masks.float(), self.pixel_decoder.stride, *_sizes(target)))
            for logits, masks, target in zip(outputs["logits"].float(), outputs["masks"], targets, strict=True)
        ]

    def predictions(self, logits: Tensor, masks: MaskLogits) -> Predictions:
        """The predictions of an image. logits: (Q, K+1)."""
        raise NotImplementedError


class Mask2Former(MaskClassification):
    """Masked-attention mask transformer (Cheng et al. 2022) for panoptic segmentation.

    threshold: least class probability of a segment in the panoptic map. The other options: see `MaskClassification`.
    """

    task, segments = "panoptic", "panoptic"
    needs = NEEDS["panoptic"]

    @classmethod
    def renamed_options(cls, options: Mapping[str, Any]) -> tuple[str, dict[str, Any]] | None:
        """See `renamed_options.py`."""
        return renamed(options)

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
    ) -> None:
        super().__init__(channels, strides, classes, num_queries, transformer, pixel_decoder, num_points, semantic_loss)
        if not 0 <= threshold <= 1:
            raise ValueError(f"threshold is {threshold:g}; a probability is between 0 and 1.")
        self.threshold = threshold

    def predictions(self, logits: Tensor, masks: MaskLogits) -> Predictions:
        """`panoptic` (H, W) int32, class index * 1000 + number of the instance, -1 = void; `semantic` (H, W) uint8; and
        `masks` (N, H, W) bool, `boxes`, `labels` and `scores` of things."""
        return {
            "panoptic": prediction.panoptic(logits, masks, self.classes, self.threshold),
            "semantic": prediction.semantic(logits, masks),
            **prediction.instances(logits, masks, self.classes, things=True),
        }

    def exported(
        self, outputs: Outputs, size: tuple[int, int], original_size: tuple[int, int] | None = None
    ) -> dict[str, Tensor]:
        """`scores` (B, Q, K) and `mask_logits` (B, Q, H, W), which are positive inside a mask; and `semantic` (B, H, W)
        uint8, and its class scores `maps` (B, K, H, W)."""
        queries = prediction.exported_queries(outputs, self.pixel_decoder.stride, size, original_size)
        return {**queries, **prediction.exported_maps(**queries)}


class Mask2FormerInstance(MaskClassification):
    """Mask2Former for instance segmentation: evaluated by box AP unless `evaluation: {name: coco_masks}`."""

    task, segments = "detection", "instance"
    needs = NEEDS["instance"]

    def predictions(self, logits: Tensor, masks: MaskLogits) -> Predictions:
        """`masks` (N, H, W) bool, `boxes`, `labels` and `scores`."""
        return prediction.instances(logits, masks, self.classes, things=False)

    def exported(
        self, outputs: Outputs, size: tuple[int, int], original_size: tuple[int, int] | None = None
    ) -> dict[str, Tensor]:
        """`scores` (B, Q, K) and `mask_logits` (B, Q, H, W), which are positive inside a mask."""
        return prediction.exported_queries(outputs, self.pixel_decoder.stride, size, original_size)


class Mask2FormerSemantic(MaskClassification, DenseHead):
    """Mask2Former for semantic segmentation, which makes maps for test-time augmentation."""

    task, segments = "segmentation", "semantic"
    needs = NEEDS["semantic"]

    def predictions(self, logits: Tensor, masks: MaskLogits) -> Predictions:
        """`semantic` (H, W) uint8."""
        return {"semantic": prediction.semantic(logits, masks)}

    def exported(
        self, outputs: Outputs, size: tuple[int, int], original_size: tuple[int, int] | None = None
    ) -> dict[str, Tensor]:
        """`semantic` (B, H, W) uint8, and its class scores `maps` (B, K, H, W)."""
        queries = prediction.exported_queries(outputs, self.pixel_decoder.stride, size, original_size)
        return prediction.exported_maps(**queries)

    def maps(self, outputs: Outputs, size: tuple[int, int]) -> Tensor:
        """Scores (B, K, *size) in fp32: sums over queries of class times mask probability.

        size: in pixels, of the padded batch or a top-left crop of it.
        """
        return torch.stack(
            [
                prediction.class_scores(logits, MaskLogits(masks, self.pixel_decoder.stride, size, size))
                for logits, masks in zip(outputs["logits"].float(), outputs["masks"].float(), strict=True)
            ]
        )

    def read_maps(self, maps: Tensor) -> Predictions:
        """(B, K, h, w) of `maps`, or averages of them -> `semantic` (B, h, w) uint8 by argmax."""
        return {"semantic": maps.argmax(1).to(torch.uint8)}


def _sizes(target: Targets) -> tuple[tuple[int, int], tuple[int, int]]:
    """Height and width of the image as the network saw it, and of the file."""
    (h, w), (height, width) = target["size"], target["original_size"]
    return (int(h), int(w)), (int(height), int(width))
