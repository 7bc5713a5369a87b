"""Faster R-CNN (Ren et al. 2015) with a feature pyramid network (Lin et al. 2017), made of torchvision's parts."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.roi_heads import RoIHeads, fastrcnn_loss
from torchvision.models.detection.rpn import RegionProposalNetwork, RPNHead, concat_box_prediction_layers
from torchvision.ops import MultiScaleRoIAlign, clip_boxes_to_image, remove_small_boxes
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool
from torchvision.ops.poolers import LevelMapper

from densevit.interfaces import Class, LossContext, Losses, Outputs, Predictions, Targets
from densevit.layers.nms import class_nms
from densevit.layers.precision import at_least_fp32, autocast_off
from densevit.losses.distributed import to_device
from densevit.set_prediction.limits import check_counts
from densevit_heads.torchvision_detectors.conversion import (
    Size,
    image_sizes,
    in_original_pixels,
    labelled_images,
    select,
    training_targets,
)
from densevit_heads.torchvision_detectors.detector import Detector
from densevit_heads.torchvision_detectors.levels import StrideAnchors, TorchvisionPyramid

ASPECT_RATIOS = (0.5, 1.0, 2.0)
SAMPLED_ANCHORS = 256  # of an image, for the losses of the region proposal network
ALL = 2**31
POOLED = 7  # rows and columns of a pooled region
REGION_SCALE = 28.0  # canonical region of torchvision, 224 pixels, by its anchor scale, 8


class FasterRCNN(Detector):
    """Faster R-CNN with a feature pyramid network: proposals, and a class and box of each; a baseline.

    Anchors, matching, sampling, region pooling, losses and post-processing are torchvision's, with its constants;
    parameters have torchvision's names after the prefixes `rpn`, `roi_heads` and `pyramid.fpn`.

    width: channels of the pyramid. box_width: the width of the two linear layers on a pooled region.
    stride: finest stride of the features to use.
    anchor_scale: side of the square anchor of a level in strides. Regions are assigned to the levels in proportion.
    num_proposals: the proposals of an image after NMS; twice as many in training, before a sample is drawn.
    num_samples: proposals of an image that are trained on, at most a quarter of them on objects.
    nms: IoU above which a detection is a duplicate of one with a higher score and the same class.
    score_threshold: lowest score of a detection. max_predictions: the most objects predicted in an image.
    """

    object_limits = ("max_predictions", "num_proposals")

    def __init__(
        self,
        channels: Sequence[int],
        strides: Sequence[int],
        classes: Sequence[Class],
        width: int = 256,
        box_width: int = 1024,
        stride: int = 4,
        anchor_scale: float = 8.0,
        num_proposals: int = 1000,
        num_samples: int = 512,
        nms: float = 0.5,
        score_threshold: float = 0.05,
        max_predictions: int = 100,
    ) -> None:
        super().__init__(channels, strides, classes, stride, nms, score_threshold, max_predictions)
        check_counts({"width": width, "box_width": box_width})
        check_counts({"num_proposals": num_proposals, "num_samples": num_samples})
        if anchor_scale <= 0:
            raise ValueError(f"anchor_scale is {anchor_scale}; a positive number of strides is expected.")
        self.num_proposals = num_proposals
        self.pyramid = TorchvisionPyramid(channels, strides, width, stride, LastLevelMaxPool(), extra_levels=1)
        proposals = {"training": 2 * num_proposals, "testing": num_proposals}
        self.rpn = RegionProposalNetwork(
            StrideAnchors(self.pyramid.strides, anchor_scale, ASPECT_RATIOS),
            RPNHead(width, len(ASPECT_RATIOS)),
            fg_iou_thresh=0.7,
            bg_iou_thresh=0.3,
            batch_size_per_image=SAMPLED_ANCHORS,
            positive_fraction=0.5,
            pre_nms_top_n=proposals,
            post_nms_top_n=proposals,
            nms_thresh=0.7,
        )
        self.roi_heads = RoIHeads(
            _region_pooling(self.pyramid.strides[:-1], REGION_SCALE * anchor_scale),
            TwoMLPHead(width * POOLED**2, box_width),
            FastRCNNPredictor(box_width, len(classes) + 1),
            fg_iou_thresh=0.5,
            bg_iou_thresh=0.5,
            batch_size_per_image=num_samples,
            positive_fraction=0.25,
            bbox_reg_weights=None,
            score_thresh=score_threshold,
            nms_thresh=nms,
            detections_per_img=max_predictions,
        )

    def class_rows(self, name: str, rows: int) -> Tensor:
        """The rows of each class; the background comes first."""
        return torch.arange(rows).view(len(self.classes) + 1, -1)[1:]

    def train(self, mode: bool = True) -> "FasterRCNN":
        """In evaluation mode, the loss uses all anchors instead of a random sample."""
        super().train(mode)
        self.rpn.fg_bg_sampler.batch_size_per_image = SAMPLED_ANCHORS if mode else ALL
        return self

    def forward(self, features: list[Tensor], padding_mask: Tensor, targets: list[Targets] | None = None) -> Outputs:
        """`objectness` (B, A, 1) and `deltas` (B, A, 4) of `anchors` (A, 4); of R regions of all images, `logits`
        (R, K+1), background first, and `box_deltas` (R, 4 (K+1)); `proposals`, a list of (R_i, 4) xyxy in pixels.

        With targets, the regions are a random sample of proposals and objects, with `region_labels` and `region_deltas`
        of the labelled images; images without labels have none. Proposals are clipped to the image without padding.
        """
        maps = self.pyramid(features)
        objectness, deltas = (list(map(at_least_fp32, values)) for values in self.rpn.head(maps))
        sizes = image_sizes(padding_mask)
        with autocast_off(padding_mask.device):
            B, counts = len(sizes), [level[0].numel() for level in objectness]
            scores, codes = concat_box_prediction_layers(objectness, deltas)  # (B A, 1), (B A, 4)
            anchors = self.rpn.anchor_generator(ImageList(padding_mask, sizes), maps)
            boxes = self.rpn.box_coder.decode(codes.detach(), anchors).view(B, -1, 4)
            proposals = self._proposals(boxes, scores.detach().view(B, -1), sizes, counts)
            outputs: Outputs = {"objectness": scores.view(B, -1, 1), "deltas": codes.view(B, -1, 4)}
            if targets is not None:
                proposals, outputs["region_labels"], outputs["region_deltas"] = self._sampled(proposals, targets)
            regions = [at_least_fp32(x) for x in maps[:-1]]
            named = {str(i): x for i, x in enumerate(regions)}
            pooled = self.roi_heads.box_roi_pool(named, proposals, sizes)  # (R, C, 7, 7)
        logits, box_deltas = self.roi_heads.box_predictor(self.roi_heads.box_head(pooled.to(maps[0].dtype)))
        return {**outputs, "anchors": anchors[0], "proposals": proposals, "logits": logits, "box_deltas": box_deltas}

    def _proposals(self, boxes: Tensor, scores: Tensor, sizes: list[Size], counts: list[int]) -> list[Tensor]:
        """torchvision's `RegionProposalNetwork.filter_proposals`, with exact NMS of each level.

        boxes: (B, A, 4) xyxy in pixels. scores: (B, A), before the sigmoid. counts: the anchors of each level.
        """
        best = self.rpn._get_top_n_idx(scores, counts)  # (B, P)
        levels = torch.bucketize(best, to_device(torch.tensor(counts), best.device).cumsum(0), right=True)
        proposals = []
        for i, size in enumerate(sizes):
            candidates = clip_boxes_to_image(boxes[i, best[i]], size)
            rows = remove_small_boxes(candidates, self.rpn.min_size)
            kept = rows[
                class_nms(candidates[rows], scores[i, best[i, rows]].sigmoid(), levels[i, rows], self.rpn.nms_thresh)
            ]
            proposals.append(candidates[kept[: self.rpn.post_nms_top_n()]])
        return proposals

    def _sampled(
        self, proposals: list[Tensor], targets: list[Targets]
    ) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
        """Regions (R_i, 4) to train on, and of the labelled images their labels (R_i,) and deltas (R_i, 4)."""
        images = labelled_images(targets)
        regions = [boxes[:0] for boxes in proposals]
        if not images:
            return regions, [], []
        objects = training_targets(targets, images, proposals[0].device, first_label=1)
        sampled, _, labels, deltas = self.roi_heads.select_training_samples([proposals[i] for i in images], objects)
        for i, boxes in zip(images, sampled, strict=True):
            regions[i] = boxes
        return regions, labels, list(deltas)

    def loss_counts(self, targets: list[Targets]) -> dict[str, float]:
        return {"images": len(labelled_images(targets))}

    def loss(self, outputs: Outputs, targets: list[Targets], context: LossContext) -> Losses:
        """Returns `objectness` and `proposal` of anchors, `label` and `box` of regions; torchvision's, all of weight 1.

        torchvision divides each term by the number of samples, which is the same for each image unless there are too
        few anchors or proposals. The means over processes and batches are therefore weighted by labelled images.
        """
        images = labelled_images(targets)
        (count,) = context.mean_counts(images=outputs["objectness"].new_full((), len(images)))
        logits, box_deltas = at_least_fp32(outputs["logits"]), at_least_fp32(outputs["box_deltas"])
        zeros = [outputs[key][:0].sum() for key in ("objectness", "deltas")] + [logits[:0].sum(), box_deltas[:0].sum()]
        terms = dict(zip(("objectness", "proposal", "label", "box"), zeros, strict=True))
        if not images:
            return terms
        weight = len(images) / count.clamp(min=context.min_normalizer())
        with autocast_off(logits.device):
            objects = training_targets(targets, images, logits.device, first_label=1)
            anchors = [outputs["anchors"]] * len(images)
            labels, matched = self.rpn.assign_targets_to_anchors(anchors, objects)
            terms["objectness"], terms["proposal"] = self.rpn.compute_loss(
                select(outputs["objectness"], images).flatten(0, 1),
                select(outputs["deltas"], images).flatten(0, 1),
                labels,
                self.rpn.box_coder.encode(matched, anchors),
            )
            proposals = outputs["proposals"]
            counts = [len(boxes) for boxes in proposals]
            logits, box_deltas = (
                torch.cat([x.split(counts)[i] for i in images]) for x in (logits, box_deltas)
            )  # images without labels have regions in evaluation mode
            if len(logits):
                if "region_labels" in outputs:
                    regions = outputs["region_labels"], outputs["region_deltas"]
                else:
                    regions = self._matched([proposals[i] for i in images], objects)
                terms["label"], terms["box"] = fastrcnn_loss(logits, box_deltas, *regions)
        return {name: weight * term for name, term in terms.items()}

    def _matched(
        self, proposals: list[Tensor], objects: list[dict[str, Tensor]]
    ) -> tuple[list[Tensor], Sequence[Tensor]]:
        """Labels (R_i,) and deltas (R_i, 4) of all proposals, in evaluation mode."""
        boxes = [target["boxes"] for target in objects]
        matches, labels = self.roi_heads.assign_targets_to_proposals(proposals, boxes, [t["labels"] for t in objects])
        padded = [x if len(x) else x.new_zeros(1, 4) for x in boxes]
        matched = [x[rows] for x, rows in zip(padded, matches, strict=True)]
        return labels, self.roi_heads.box_coder.encode(matched, proposals)

    @torch.no_grad()
    def predict(self, outputs: Outputs, targets: list[Targets]) -> list[Predictions]:
        """Returns up to `max_predictions` (region, class) pairs by descending score, after NMS of each class."""
        counts = [len(boxes) for boxes in outputs["proposals"]]
        all_boxes = self.roi_heads.box_coder.decode(outputs["box_deltas"].float(), outputs["proposals"])  # (R, K+1, 4)
        all_scores = outputs["logits"].float().softmax(dim=1)[:, 1:]  # without the background
        predictions = []
        for boxes, scores, target in zip(all_boxes.split(counts), all_scores.split(counts), targets, strict=True):
            region, labels = (scores > self.roi_heads.score_thresh).nonzero(as_tuple=True)
            boxes, scores = clip_boxes_to_image(boxes[region, labels + 1], target["size"]), scores[region, labels]
            rows = remove_small_boxes(boxes, 1e-2)
            kept = rows[class_nms(boxes[rows], scores[rows], labels[rows], self.nms)][: self.max_predictions]
            predictions.append(in_original_pixels(boxes[kept], scores[kept], labels[kept], target))
        return predictions


def _region_pooling(strides: Sequence[int], canonical_scale: float) -> MultiScaleRoIAlign:
    """Region pooling with the strides of the levels.

    torchvision infers them, as powers of 2, from the sizes of the first batch that it sees.
    canonical_scale: side in pixels of the smallest region that is pooled at stride 16 (Lin et al. 2017, equation 1).
    """
    pooling = MultiScaleRoIAlign([str(i) for i in range(len(strides))], output_size=POOLED, sampling_ratio=2)
    finest = math.log2(strides[0])
    first = round(finest)
    pooling.scales = [1 / stride for stride in strides]
    pooling.map_levels = LevelMapper(first, first + len(strides) - 1, canonical_scale, 4 + first - finest)
    return pooling
