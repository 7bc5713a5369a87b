"""The Mask2Former head: pixel decoder, masked-attention decoder, criterion and predictions."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from densevit.interfaces import Class, Dataset, Head, LossContext, Losses, Outputs, Predictions, Targets
from densevit.set_prediction.limits import MAX_LAYERS, check_classes, check_counts, check_weights
from densevit_heads.deformable_detr.levels import GROUPS
from densevit_heads.mask2former import prediction
from densevit_heads.mask2former.criterion import MaskCriterion
from densevit_heads.mask2former.pixel_decoder import PixelDecoder
from densevit_heads.mask2former.segments import NEEDS, Task
from densevit_heads.mask2former.transformer import MaskedDecoder, MaskQueries, mask_logits


class Mask2Former(Head):
    """Masked-attention mask transformer (Cheng et al. 2022) for panoptic, instance or semantic segmentation.

    The defaults are the paper's. The finest feature should have a stride of 4, as masks have its resolution; a plain
    ViT gets such features from a neck (`simple_pyramid`).

    task: what is learned and predicted. "panoptic" predicts instances and a semantic map, too. "instance" is evaluated
        by box AP unless its section has `evaluation: {name: coco_masks}`.
    encoder_layers, encoder_ffn_width: of the deformable attention of the pixel decoder.
    decoder_layers, ffn_width: of the transformer decoder.
    num_points: at which masks are compared, in matching and in losses.
    fusion_blocks: number of residual blocks after a fusion of all features of stride 8 and above to the finest level
        (`FusedProjection`); 0: no fusion. Helps short training from random weights.
    semantic_loss: weight of an auxiliary loss in training, for which the cells of the finest level are classified, as
        in MaX-DeepLab (Wang et al. 2021); 0 disables.
    threshold: least class probability of a segment in the panoptic map.
    """

    task = "panoptic"
    needs = NEEDS["panoptic"]
    coded_masks = True

    def __init__(
        self,
        channels: Sequence[int],
        strides: Sequence[int],
        classes: Sequence[Class],
        task: Task = "panoptic",
        num_queries: int = 100,
        width: int = 256,
        num_heads: int = 8,
        encoder_layers: int = 6,
        encoder_ffn_width: int = 1024,
        decoder_layers: int = 9,
        ffn_width: int = 2048,
        dropout: float = 0.0,
        num_points: int = 12544,
        fusion_blocks: int = 0,
        semantic_loss: float = 0.0,
        threshold: float = 0.8,
    ) -> None:
        super().__init__(channels, strides, classes)
        check_counts({"encoder_layers": encoder_layers, "decoder_layers": decoder_layers}, 1, MAX_LAYERS)
        check_counts({"num_queries": num_queries, "num_heads": num_heads, "num_points": num_points})
        check_counts({"encoder_ffn_width": encoder_ffn_width, "ffn_width": ffn_width})
        check_counts({"fusion_blocks": fusion_blocks}, 0, MAX_LAYERS)
        check_weights({"semantic_loss": semantic_loss})
        if not 0 <= threshold <= 1:
            raise ValueError(f"threshold is {threshold:g}; a probability is between 0 and 1.")
        if width % GROUPS or width < GROUPS:
            raise ValueError(f"width is {width}; it must be a multiple of {GROUPS}, the groups of the group norm.")
        check_classes(classes)
        self.kind, self.threshold = task, threshold
        self.__class__ = type(self).with_options({"task": task})  # the task of a class decides which methods it has
        self.pixel_decoder = PixelDecoder(
            channels, strides, width, num_heads, encoder_layers, encoder_ffn_width, dropout, fusion_blocks
        )
        self.decoder = MaskedDecoder(num_queries, len(classes), width, num_heads, decoder_layers, ffn_width, dropout)
        stride = self.pixel_decoder.stride
        self.criterion = MaskCriterion(
            task, len(classes), num_queries, num_points, stride, semantic_weight=semantic_loss
        )
        self.semantic_head = nn.Conv2d(width, len(classes), 1) if semantic_loss else None

    @classmethod
    def with_options(cls, options: Mapping[str, Any]) -> "type[Mask2Former]":
        kinds: dict[str, type[Mask2Former]] = {"instance": _InstanceSegmentation, "semantic": _SemanticSegmentation}
        return kinds.get(options.get("task", "panoptic"), cls)

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
        """Returns by task `semantic` (H, W) uint8; or `masks` (N, H, W) bool, `boxes`, `labels` and `scores`; or, for
        panoptic segmentation, both and `panoptic` (H, W) int32, class index * 1000 + number of the instance, -1 = void.
        """
        return [
            self._predict(logits, prediction.MaskLogits(masks.float(), self.pixel_decoder.stride, *_sizes(target)))
            for logits, masks, target in zip(outputs["logits"].float(), outputs["masks"], targets, strict=True)
        ]

    def exported(
        self, outputs: Outputs, size: tuple[int, int], original_size: tuple[int, int] | None = None
    ) -> dict[str, Tensor]:
        """`scores` (B, Q, K) and `mask_logits` (B, Q, H, W), which are positive inside a mask; and for semantic and
        panoptic segmentation `semantic` (B, H, W) uint8, and its class scores `maps` (B, K, H, W).
        """
        stride = self.pixel_decoder.stride
        scores = outputs["logits"].float().softmax(-1)[..., :-1]  # (B, Q, K)
        masks = F.interpolate(outputs["masks"].float(), scale_factor=stride, mode="bilinear", align_corners=False)
        masks = masks[..., : size[0], : size[1]]
        if original_size is not None:
            masks = F.interpolate(masks, size=original_size, mode="bilinear", align_corners=False)
        found = {} if self.kind == "semantic" else {"scores": scores, "mask_logits": masks}
        if self.kind == "instance":
            return found
        maps = torch.einsum("bqk,bqhw->bkhw", scores, masks.sigmoid())
        return {**found, "semantic": maps.argmax(1).to(torch.uint8), "maps": maps}

    def _predict(self, logits: Tensor, masks: prediction.MaskLogits) -> Predictions:
        predictions: Predictions = {}
        if self.kind == "panoptic":
            predictions["panoptic"] = prediction.panoptic(logits, masks, self.classes, self.threshold)
        if self.kind != "instance":
            predictions["semantic"] = prediction.semantic(logits, masks)
        if self.kind != "semantic":
            predictions |= prediction.instances(logits, masks, self.classes, things=self.kind == "panoptic")
        return predictions


class _InstanceSegmentation(Mask2Former):
    """Mask2Former for instance segmentation."""

    task = "detection"
    needs = NEEDS["instance"]


class _SemanticSegmentation(Mask2Former):
    """Mask2Former for semantic segmentation, which makes maps for test-time augmentation."""

    task = "segmentation"
    needs = NEEDS["semantic"]

    def maps(self, outputs: Outputs, size: tuple[int, int]) -> Tensor:
        """Scores (B, K, *size) in fp32: sums over queries of class times mask probability.

        size: in pixels, of the padded batch or a top-left crop of it.
        """
        return torch.stack(
            [
                prediction.class_scores(logits, prediction.MaskLogits(masks, self.pixel_decoder.stride, size, size))
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
