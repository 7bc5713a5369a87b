"""Masks of a detector's queries: a mask for each query, their losses and their merging.

The loss is the paper's (Carion et al. 2020, section 4.4): focal loss + dice loss of the masks of the last layer's
matched queries, in addition to the detector's losses.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from densevit.interfaces import LossContext, Losses, Outputs, Predictions, Targets
from densevit.losses.boxes import to_centres
from densevit.losses.distributed import to_device
from densevit.losses.matching import Objects
from densevit.set_prediction.head import SetPredictionHead
from densevit.set_prediction.limits import check_weights
from densevit.set_prediction.mask_segments import segment_counts
from densevit.set_prediction.memory import Memory
from densevit.set_prediction.predictions import class_scores, relative_boxes
from densevit.set_prediction.transformer import Transformer
from densevit_heads.parts.panoptic.losses import mask_losses
from densevit_heads.parts.panoptic.mask_head import AttentionMaps, MaskHead
from densevit_heads.parts.panoptic.merging import instances, panoptic_map
from densevit_heads.parts.panoptic.segments import PanopticSegments


class PanopticMaskHead(SetPredictionHead):
    """Adds masks to a detector, the next base class, which learns boxes of things and stuff.

    The parameters of the detector keep their names, so that a detection head's weights can start a panoptic one.
    """

    task = "panoptic"
    required_targets: ClassVar[tuple[str, ...]] = ("panoptic",)
    starts_from: ClassVar[Mapping[str, Sequence[str]]] = {"detection": ("attention_maps.*", "mask_head.*")}
    transformer: Transformer  # attributes of the detector
    criterion: Any
    project: Any
    encode: Callable[[Tensor, Tensor], Memory]
    detect: Callable[[Memory, list[Targets] | None], tuple[Outputs, Tensor]]
    attention_bias: Callable[[Tensor, Memory], Tensor | None]

    def add_masks(
        self,
        channels: Sequence[int],
        strides: Sequence[int],
        mask_weight: float,
        dice_weight: float,
        freeze_detector: bool,
        threshold: float,
    ) -> None:
        """Builds the mask head; for the constructor, after the detector's."""
        width, num_heads = self.transformer.width, self.transformer.num_heads
        if width % 16:
            raise ValueError(f"width is {width}; it must be a multiple of 16, which the mask head divides it by.")
        check_weights({"mask_weight": mask_weight, "dice_weight": dice_weight})
        if not 0 <= threshold <= 1:
            raise ValueError(f"threshold is {threshold:g}; expected a score from 0 to 1.")
        self.mask_weight, self.dice_weight, self.threshold = mask_weight, dice_weight, threshold
        self.freeze_detector = freeze_detector
        if freeze_detector:
            self.requires_grad_(False)
        self.attention_maps = AttentionMaps(width, num_heads)
        self.mask_head = MaskHead(channels, strides, width, self.project.stride, num_heads)

    def forward(self, features: list[Tensor], padding_mask: Tensor, targets: list[Targets] | None = None) -> Outputs:
        """The outputs of the detector, and `masks`, logits (B, Q, h, w) over the padded batch of `padded_size`.

        In training with targets, masks of matched queries only, `matched_masks` (P, h, w), with the `segments` that
        were matched and the matched `pairs` of all layers: other masks have no loss.
        """
        size = (padding_mask.shape[1], padding_mask.shape[2])
        segments = None
        if self.training and targets is not None:
            segments = PanopticSegments.of(targets, len(self.classes), size, padding_mask.device)
        if self.freeze_detector:
            features = [x.detach() for x in features]
        with torch.no_grad() if self.freeze_detector else nullcontext():
            projected = self.project(features)
            memory = self.encode(projected, padding_mask)
            outputs, states = self.detect(memory, None if segments is None else segments.targets)
        bias = self.attention_bias(outputs["boxes"].detach(), memory)
        attention = self.attention_maps(states, memory, bias)  # (B, Q, heads, H, W)
        outputs["padded_size"] = size
        B, Q = attention.shape[:2]
        if segments is None:
            image = torch.arange(B, device=attention.device).repeat_interleave(Q, output_size=B * Q)
            masks = self.mask_head(projected, attention.flatten(0, 1), image, features, size)
            return {**outputs, "masks": masks.unflatten(0, (B, Q))}
        objects = Objects.of(segments.targets, attention.device)
        pairs = self.criterion.match(
            outputs, objects, strict=False
        )  # in training: see `LossContext.raise_on_non_finite`
        masks = self.mask_head(projected, attention[pairs.image, pairs.query[-1]], pairs.image, features, size)
        return {**outputs, "objects": objects, "segments": segments, "pairs": pairs, "matched_masks": masks}

    def loss_counts(self, targets: list[Targets]) -> dict[str, float]:
        labelled = [target for target in targets if "panoptic" in target]
        return self.criterion.loss_counts(segment_counts(labelled, "panoptic", len(self.classes)))

    def loss(self, outputs: Outputs, targets: list[Targets], context: LossContext) -> Losses:
        """`mask` and `dice` of the last layer, and unless `freeze_detector` the losses of the detector."""
        device = outputs["logits"].device
        segments = outputs.get("segments")
        if segments is None:
            segments = PanopticSegments.of(targets, len(self.classes), outputs["padded_size"], device)
            objects = Objects.of(segments.targets, device)
            pairs = self.criterion.match(outputs, objects, context.raise_on_non_finite)
            outputs = {**outputs, "pairs": pairs, "objects": objects}
        objects, pairs = outputs["objects"], outputs["pairs"]
        logits = outputs.get("matched_masks")
        if logits is None:
            logits = outputs["masks"][pairs.image, pairs.query[-1]]
        self.warn_of_objects(objects.counts, objects.names)
        masks, valid = segments.masks(pairs.image, pairs.target[-1]), segments.valid.index_select(0, pairs.image)
        mask, dice = mask_losses(logits, masks, valid, sum(objects.counts), context)
        losses = {} if self.freeze_detector else super().loss(outputs, segments.targets, context)
        return {**losses, "mask": self.mask_weight * mask, "dice": self.dice_weight * dice}

    @torch.no_grad()
    def predict(self, outputs: Outputs, targets: list[Targets]) -> list[Predictions]:
        """`panoptic` (H, W) int32 of each image, and `masks`, `boxes`, `labels` and `scores` of the things.

        Each query has its most probable class. The map has the segments whose score is above `threshold`; instances are
        not filtered, and their masks may overlap.
        """
        scores = class_scores(outputs["logits"], self.softmax)
        predictions = []
        for i, target in enumerate(targets):
            queries = scores[i], outputs["boxes"][i].float(), outputs["masks"][i].float()
            lowest = outputs.get("lowest_score", 0.0)
            predictions.append(self._merged(*queries, outputs["padded_size"], target, lowest))
        return predictions

    @torch.no_grad()
    def predict_exported(self, exported: Mapping[str, Tensor], targets: list[Targets]) -> list[Predictions]:
        """The predictions of `predict` from the outputs of `exported`."""
        boxes = to_centres(relative_boxes(exported["boxes"], targets))
        predictions = []
        for i, target in enumerate(targets):
            queries = exported["scores"][i].float(), boxes[i], exported["mask_logits"][i].float()
            predictions.append(self._merged(*queries, tuple(target["size"]), target))
        return predictions

    def _merged(
        self,
        probability: Tensor,
        boxes: Tensor,
        masks: Tensor,
        padded: tuple[int, int],
        target: Targets,
        lowest: Tensor | float = 0.0,
    ) -> Predictions:
        """The predictions of an image. probability: (Q, K). boxes: (Q, 4) cxcywh. masks: logits (Q, h, w) that cover
        `padded` pixels. lowest: the lowest score of an instance."""
        scores, labels = probability.max(-1)  # (Q,)
        kept = scores > self.threshold
        if self.softmax:
            kept &= scores >= 1 - probability.sum(-1)  # "no object" is not more probable
        things = to_device(torch.tensor([c.thing for c in self.classes]), scores.device)
        size, original = tuple(target["size"]), tuple(target["original_size"])
        merged = panoptic_map(masks, labels, kept, things, padded, size, original)
        return {"panoptic": merged, **instances(scores, labels, boxes, masks, things, padded, size, original, lowest)}

    def exported(
        self, outputs: Outputs, size: tuple[int, int], original_size: tuple[int, int] | None = None
    ) -> dict[str, Tensor]:
        """`boxes` and `scores` as of the detector, and `mask_logits` (B, Q, H, W), which are positive inside a mask."""
        masks = F.interpolate(outputs["masks"].float(), outputs["padded_size"], mode="bilinear", align_corners=False)
        masks = masks[..., : size[0], : size[1]]
        if original_size is not None:
            masks = F.interpolate(masks, size=original_size, mode="bilinear", align_corners=False)
        return {**super().exported(outputs, size, original_size), "mask_logits": masks}
