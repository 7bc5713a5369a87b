"""CocoMasks against pycocotools' `segm` on COCO JSON files, bit-identical."""

import json
import math
from typing import Any

import numpy as np
import torch
from pycocotools import mask as codes
from pycocotools.cocoeval import COCOeval

from densevit.evaluation.coco_masks import CocoMasks
from densevit.targets import RunLengthMasks
from tests.evaluation.coco_reference import CLASSES, Pairs, as_json, near_boundary, reference, same, updated
from tests.evaluation.test_coco_ap import messy as of_boxes


def messy(seed: int) -> Pairs:
    """Rectangles of 160 x 160 pixels for the boxes of `test_coco_ap`: with crowds, ties, empty and cut masks."""
    rows, columns = np.mgrid[:160, :160]

    def rectangles(boxes: torch.Tensor) -> np.ndarray:
        left, top, right, bottom = boxes.numpy().T[:, :, None, None] / 4
        return (columns >= left) & (columns < right) & (rows >= top) & (rows < bottom)

    pairs = []
    for found, truth in of_boxes(seed):
        masks = RunLengthMasks.from_dense(rectangles(truth["boxes"]), (160, 160))
        pairs.append((found | {"masks": torch.from_numpy(rectangles(found["boxes"]))}, truth | {"masks": masks}))
    return pairs


class BoundaryEval(COCOeval):
    """pycocotools with the boundary IoU of Cheng et al. 2021, written out."""

    def computeIoU(self, image: int, category: int) -> Any:  # noqa: N802  # pycocotools' name
        ious = super().computeIoU(image, category)
        found = sorted(self._dts[image, category], key=lambda one: -one["score"])[: self.params.maxDets[-1]]
        for d, detection in enumerate(found):
            for g, truth in enumerate(self._gts[image, category]):
                if not truth["iscrowd"]:
                    a, b = (near_boundary(codes.decode(one["segmentation"]), 0.02) for one in (detection, truth))
                    ious[d, g] = min(ious[d, g], (a & b).sum() / max((a | b).sum(), 1))
        return ious


def prefixed(metrics: dict[str, float], prefix: str) -> dict[str, float]:
    return {f"{prefix}{name}": value for name, value in metrics.items()}


def test_metrics_match_pycocotools_and_boundary_metrics_the_definition():
    pairs = messy(1)
    truth, results = as_json(pairs, "masks")
    evaluator = updated(CocoMasks(CLASSES, boundary=True), pairs)
    masks, boundaries = reference(truth, results, "segm"), reference(truth, results, "segm", BoundaryEval)
    assert same(evaluator.metrics(), prefixed(masks, "mask_") | prefixed(boundaries, "boundary_"))
    assert 0.05 < boundaries["AP"] < masks["AP"] < 0.95 and math.isnan(masks["AP/class 5"])
    assert same(reference(truth, json.loads(json.dumps(evaluator.results())), "segm"), masks)
