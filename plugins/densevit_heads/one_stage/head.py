"""The one-stage head: class scores and a box from each cell of one feature map."""

from collections.abc import Mapping, Sequence
from typing import ClassVar

import torch
from torch import Tensor

from densevit.interfaces import Class, Head, LossContext, Losses, Outputs, Predictions, Targets
from densevit.layers.positions import mask_on_grid
from densevit.losses.dense_detection import dense_detection
from densevit.losses.labelled_objects import LabelledObjects
from densevit.set_prediction.limits import MAX_LAYERS, check_classes, check_counts
from densevit.set_prediction.memory import cell_centres
from densevit.set_prediction.predictions import exported_predictions, relative_boxes
from densevit.set_prediction.projections import FusedProjection
from densevit.set_prediction.proposals import Proposals
from densevit_heads.one_stage.nms import cell_scores, suppressed, suppressed_predictions

LABEL_WEIGHT, L1_WEIGHT, GIOU_WEIGHT = 1.0, 5.0, 2.0  # DETR's


class OneStage(Head):
    """One-stage detection with NMS, which learns from few images and in few minutes.

    Feature maps are fused at one stride. Each cell predicts class scores and a box.
    In training, several cells are assigned to each object by the alignment of score and IoU (TOOD, Feng et al. 2021,
    section 3.2); a cell learns the IoU of its box as score (matchability-aware loss, DEIM, Huang et al. 2025). In
    `predict`, class-wise non-maximum suppression (NMS) removes duplicates.

    stride: finest stride of the features to use, coarser ones are fused into it (`FusedProjection`).
    fusion_blocks: residual convolution blocks after the fusion.
    nms: IoU above which a prediction is a duplicate of one with a higher score and the same class.
    max_predictions: the most objects predicted in an image.
    """

    task = "detection"
    required_targets: ClassVar[tuple[str, ...]] = ("boxes", "labels")
    partial_labels = True
    nms: float

    def __init__(
        self,
        channels: Sequence[int],
        strides: Sequence[int],
        classes: Sequence[Class],
        width: int = 256,
        stride: int = 8,
        fusion_blocks: int = 4,
        nms: float = 0.65,
        max_predictions: int = 100,
    ) -> None:
        super().__init__(channels, strides, classes)
        self.finest_stride = stride
        check_counts({"fusion_blocks": fusion_blocks}, 0, MAX_LAYERS)
        check_counts({"width": width, "stride": stride, "max_predictions": max_predictions})
        check_classes(classes)
        if not 0 < nms <= 1:
            raise ValueError(f"nms is {nms}; an IoU above 0, at most 1 is expected.")
        self.nms, self.max_predictions = nms, max_predictions
        self.project = FusedProjection(channels, strides, width, stride, fusion_blocks)
        self.cells = Proposals(width, len(classes))

    def forward(self, features: list[Tensor], padding_mask: Tensor, targets: list[Targets] | None = None) -> Outputs:
        """`logits` (B, S, K), `boxes` (B, S, 4) cxcywh, `centres` (B, S, 2) and `padding` (B, S) of cells in rows."""
        x = self.project(features)
        size = (x.shape[-2], x.shape[-1])
        centres, _ = cell_centres(padding_mask, size, self.project.stride)
        logits, boxes = self.cells(x.flatten(2).transpose(1, 2), centres)
        padding = mask_on_grid(padding_mask, size).flatten(1)
        return {"logits": logits, "boxes": boxes, "centres": centres, "padding": padding}

    def loss(self, outputs: Outputs, targets: list[Targets], context: LossContext) -> Losses:
        """Returns `label`, `l1` and `giou`, weighted as in DETR."""
        cells = [outputs[key] for key in ("logits", "boxes", "centres", "padding")]
        labelled = LabelledObjects.of(targets, cells[0].device)
        logits, boxes, centres, padding = labelled.select(cells)
        label, l1, giou = dense_detection(logits, boxes, centres, padding, labelled.objects, context)
        return {"label": LABEL_WEIGHT * label, "l1": L1_WEIGHT * l1, "giou": GIOU_WEIGHT * giou}

    @torch.no_grad()
    def predict(self, outputs: Outputs, targets: list[Targets]) -> list[Predictions]:
        """Returns up to `max_predictions` (cell, class) pairs by descending score, without duplicates."""
        return suppressed_predictions(outputs, targets, self.nms, self.max_predictions)

    def exported(
        self, outputs: Outputs, size: tuple[int, int], original_size: tuple[int, int] | None = None
    ) -> dict[str, Tensor]:
        """`boxes` (B, S, 4) xyxy and `scores` (B, S, K) of all cells, before NMS; scores are 0 in padding."""
        return {**exported_predictions(outputs, original_size or size), "scores": cell_scores(outputs)}

    @torch.no_grad()
    def predict_exported(self, exported: Mapping[str, Tensor], targets: list[Targets]) -> list[Predictions]:
        """The predictions of `predict` from the outputs of `exported`."""
        boxes = relative_boxes(exported["boxes"], targets)
        return suppressed(boxes, exported["scores"].float(), targets, self.nms, self.max_predictions)
