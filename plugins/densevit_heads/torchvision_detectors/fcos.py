"""FCOS (Tian et al. 2019), made of torchvision's parts."""

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torchvision.models import detection
from torchvision.models.detection.fcos import FCOSHead
from torchvision.models.detection.image_list import ImageList
from torchvision.ops import clip_boxes_to_image
from torchvision.ops.feature_pyramid_network import LastLevelP6P7

from densevit.interfaces import Class, LossContext, Losses, Outputs, Predictions, Targets
from densevit.layers.nms import class_nms
from densevit.layers.precision import at_least_fp32, autocast_off
from densevit.layers.tracing import as_tensor, computed_rows
from densevit.losses.classification import labelled_logits
from densevit.losses.distributed import to_device
from densevit.losses.matching import labelled_classes
from densevit_heads.torchvision_detectors.conversion import (
    in_original_pixels,
    labelled_images,
    select,
    training_targets,
)
from densevit_heads.torchvision_detectors.detector import Detector
from densevit_heads.torchvision_detectors.levels import StrideAnchors, TorchvisionPyramid

MAPS = {"logits": "cls_logits", "distances": "bbox_regression", "centerness": "bbox_ctrness"}  # torchvision's names
TERMS = {"label": "classification", "giou": "bbox_regression", "centerness": "bbox_ctrness"}


class FCOS(Detector):
    """FCOS: a class, a box and its centre-ness from each location of a feature pyramid, without anchors; a baseline.

    Matching with centre sampling, losses and post-processing are torchvision's, with its constants; parameters have
    torchvision's names after the prefixes `fcos.head` and `pyramid.fpn`.

    width: channels of the pyramid, a multiple of 32 from 64 on (group norm of 32 groups).
    stride: finest stride of the features to use. A level has objects of a size of 4 to 8 strides from a location to
        the farthest side, the finest also smaller ones, the coarsest larger ones.
    nms: IoU above which a detection is a duplicate of one with a higher score and the same class.
    score_threshold: lowest score of a detection, the square root of class score times centre-ness.
    max_predictions: the most objects predicted in an image.
    """

    partial_labels = True

    def __init__(
        self,
        channels: Sequence[int],
        strides: Sequence[int],
        classes: Sequence[Class],
        width: int = 256,
        stride: int = 8,
        nms: float = 0.6,
        score_threshold: float = 0.2,
        max_predictions: int = 100,
    ) -> None:
        super().__init__(channels, strides, classes, stride, nms, score_threshold, max_predictions)
        if width < 64 or width % 32:
            raise ValueError(f"width is {width}; a multiple of 32, at least 64, is expected.")
        self.pyramid = TorchvisionPyramid(channels, strides, width, stride, LastLevelP6P7(width, width), extra_levels=2)
        features = nn.Identity()
        features.out_channels = width  # type: ignore[assignment]  # of the backbone, which is not part of the head
        self.fcos = detection.FCOS(
            features,
            len(classes),
            anchor_generator=StrideAnchors(self.pyramid.strides, 1.0, (1.0,)),
            head=_SummedLosses(width, 1, len(classes)),
            score_thresh=score_threshold,
            nms_thresh=nms,
            topk_candidates=max(1000, 10 * max_predictions),
            detections_per_img=max_predictions,
        )

    def forward(self, features: list[Tensor], padding_mask: Tensor, targets: list[Targets] | None = None) -> Outputs:
        """The outputs at S locations, level by level: `logits` (B, S, K), `distances` (B, S, 4) to left, top, right and
        bottom in strides, `centerness` (B, S, 1), `anchors` (S, 4), squares of a stride around the locations in pixels;
        and `levels`, the number of locations of each level.
        """
        maps = self.pyramid(features)
        outputs = self.fcos.head(maps)
        (anchors,) = self.fcos.anchor_generator(ImageList(padding_mask, [(0, 0)]), maps)
        levels = [x.shape[-2] * x.shape[-1] for x in maps]
        return {**{name: outputs[key] for name, key in MAPS.items()}, "anchors": anchors, "levels": levels}

    def loss(self, outputs: Outputs, targets: list[Targets], context: LossContext) -> Losses:
        """Returns `label` (focal loss), `giou` and `centerness`; torchvision's, all of weight 1.

        Divided by the number of locations on objects, at least 1, as the mean over processes.
        """
        images = labelled_images(targets)
        maps = {name: at_least_fp32(outputs[name]) for name in MAPS}
        device = outputs["anchors"].device
        foreground = outputs["anchors"].new_zeros(())
        terms = {term: x[:0].sum() for term, x in zip(TERMS, maps.values(), strict=True)}
        if images:
            with autocast_off(device):
                sums = self.fcos.compute_loss(
                    training_targets(targets, images, device, first_label=0),
                    {MAPS[name]: select(x, images) for name, x in maps.items()},
                    [outputs["anchors"]] * len(images),
                    outputs["levels"],
                )
            terms = {term: sums[key] for term, key in TERMS.items()}
            foreground = sums["foreground"]
        (count,) = context.mean_counts(foreground=foreground)
        count = count.clamp(min=context.min_normalizer())
        return {term: value / count for term, value in terms.items()}

    @torch.no_grad()
    def predict(self, outputs: Outputs, targets: list[Targets]) -> list[Predictions]:
        """Returns up to `max_predictions` (location, class) pairs by descending score, after NMS of each class.

        Boxes are clipped to the image. Boxes without area, from locations in the padding, are removed.
        """
        K, distances = len(self.classes), outputs["distances"].float()
        firsts = [K * first for first in itertools.accumulate([0, *outputs["levels"]])]  # of the scores of each level
        predictions = []
        for scores, codes, target in zip(_scores(outputs).flatten(1), distances, targets, strict=True):
            index = torch.cat([a + self._candidates(scores[a:b]) for a, b in itertools.pairwise(firsts)])
            boxes = self.fcos.box_coder.decode(codes[index // K], outputs["anchors"][index // K])
            boxes, best, labels = clip_boxes_to_image(boxes, target["size"]), scores[index], index % K
            kept = class_nms(boxes, best, labels, self.nms)
            kept = kept[best[kept] > self.fcos.score_thresh][: self.max_predictions]
            kept = kept[(boxes[kept, 2:] > boxes[kept, :2]).all(dim=1)]
            predictions.append(in_original_pixels(boxes[kept], best[kept], labels[kept], target))
        return predictions

    def _candidates(self, scores: Tensor) -> Tensor:
        """The indices of the best scores (s * K,) of a level, above the threshold."""
        rows = computed_rows(scores > self.fcos.score_thresh)
        return rows[scores[rows].topk(torch.sym_min(self.fcos.topk_candidates, rows.shape[0])).indices]

    def exported(
        self, outputs: Outputs, size: tuple[int, int], original_size: tuple[int, int] | None = None
    ) -> dict[str, Tensor]:
        """`boxes` (B, S, 4) xyxy and `scores` (B, S, K) of all locations, before NMS; scores are 0 in padding."""
        anchors = outputs["anchors"]
        boxes = self.fcos.box_coder.decode(outputs["distances"].float(), anchors)
        (h, w), (H, W) = size, original_size or size
        boxes = clip_boxes_to_image(boxes, size) * to_device(as_tensor([W / w, H / h] * 2), boxes.device)
        centres = (anchors[:, :2] + anchors[:, 2:]) / 2
        padding = (centres[:, 0] >= w) | (centres[:, 1] >= h)
        return {"boxes": boxes, "scores": _scores(outputs).masked_fill(padding[:, None], 0.0)}


def _scores(outputs: Outputs) -> Tensor:
    """Scores (B, S, K) of all locations: the square root of class score times centre-ness."""
    return (outputs["logits"].float().sigmoid() * outputs["centerness"].float().sigmoid()).sqrt()


class _SummedLosses(FCOSHead):
    """torchvision's head with losses as sums, to be divided by the foreground locations of all processes."""

    def compute_loss(
        self,
        targets: list[dict[str, Tensor]],
        head_outputs: dict[str, Tensor],
        anchors: list[Tensor],
        matched_idxs: list[Tensor],
    ) -> dict[str, Tensor]:
        """torchvision's terms before its division, and `foreground`, the number of matched locations."""
        logits = head_outputs["cls_logits"]
        if (labelled := labelled_classes(targets, logits.device)) is not None:
            truth = torch.zeros_like(logits)
            for row, target, index in zip(truth, targets, matched_idxs, strict=True):
                if len(target["labels"]):
                    classes = target["labels"][index.clamp(min=0)][:, None]
                    row.scatter_(1, classes, (index >= 0)[:, None].to(row.dtype))
            head_outputs = {**head_outputs, "cls_logits": labelled_logits(logits, truth, labelled)}
        losses = super().compute_loss(targets, head_outputs, anchors, matched_idxs)
        foreground = (torch.stack(matched_idxs) >= 0).sum()
        sums = {name: loss * foreground.clamp(min=1) for name, loss in losses.items()}
        return {**sums, "foreground": foreground.to(anchors[0].dtype)}
