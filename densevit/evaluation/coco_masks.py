"""COCO's average precision of instance masks, identical to pycocotools' `segm` to the last digit."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from densevit.evaluation.coco_ap import AveragePrecision, Overlaps
from densevit.evaluation.mask_boundary import boundary_fraction
from densevit.evaluation.mask_records import MaskRecords, code
from densevit.interfaces import Classes, Predictions, Targets


class CocoMasks(AveragePrecision):
    """Average precision and recall of instance masks, as defined by COCO.

    predictions: masks (M, H, W) bool, scores (M,), labels (M,). truths: image_id, labels (N,), area (N,), iscrowd (N,)
    and masks, `RunLengthMasks` of N. An image without `masks` in its target is unlabelled. Masks are stored as COCO's
    run-length codes, which pycocotools compares.

    Metrics and max_detections: see `AveragePrecision`, with the prefix `mask_`: `mask_AP`, `mask_AP/<class>`.

    boundary: adds the same metrics with the prefix `boundary_`, for the boundary IoU of Cheng et al. 2021 (section 5):
    the smaller of the IoU of the masks and the IoU of their pixels near their boundaries. Near is a distance of
    `boundary` times the image diagonal, rounded, at least 1 pixel; true: the paper's 0.02. Crowds use the masks alone.
    """

    reads = ("masks", "scores", "labels")
    main = "mask_AP"
    labelled_by = "masks"
    records_type = MaskRecords

    def __init__(self, classes: Classes, max_detections: int = 100, boundary: bool | float = False) -> None:
        super().__init__(classes, max_detections)
        self.boundary = boundary_fraction(boundary)

    def collected(
        self, ids: Sequence[int | str], predictions: Sequence[Predictions], truths: Sequence[Targets]
    ) -> MaskRecords:
        return MaskRecords.of(ids, predictions, truths, self.boundary)

    def overlaps(self, objects: MaskRecords) -> Mapping[str, tuple[np.ndarray, Overlaps]]:
        from pycocotools import mask as codes  # slow to import

        sizes = np.repeat(objects.sizes, np.diff(objects.truths), axis=0)

        def iou(masks: np.ndarray, truth_masks: np.ndarray, rows: np.ndarray, truths: np.ndarray) -> np.ndarray:
            size = sizes[truths[0]].tolist()
            pair = [[code(size, counts) for counts in image] for image in (masks[rows], truth_masks[truths])]
            return np.asarray(codes.iou(*pair, objects.crowds[truths].tolist()))

        def mask_iou(rows: np.ndarray, truths: np.ndarray) -> np.ndarray:
            return iou(objects.masks, objects.truth_masks, rows, truths)

        def boundary_iou(rows: np.ndarray, truths: np.ndarray) -> np.ndarray:
            ious, crowds = mask_iou(rows, truths), objects.crowds[truths]
            near = iou(objects.boundaries, objects.truth_boundaries, rows, truths)
            return np.where(crowds, ious, np.minimum(ious, near))

        by_prefix = {"mask_": mask_iou} | ({"boundary_": boundary_iou} if self.boundary else {})
        return {prefix: (objects.pixels, overlaps) for prefix, overlaps in by_prefix.items()}

    def shapes(self, objects: MaskRecords) -> list[dict[str, Any]]:
        """Masks as run-length codes."""
        size = objects.sizes[0].tolist()
        return [{"segmentation": {"size": size, "counts": counts.decode()}} for counts in objects.masks]
